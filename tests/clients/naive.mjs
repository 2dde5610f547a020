// The client that most people write with fetch: split at line breaks, keep the last piece, look for "data: ".
// Prints the job's id, then each event, as lines of JSON.
const [url, body] = process.argv.slice(2);
const headers = { "Content-Type": "application/json" };
const response = await fetch(url, { method: "POST", headers, body });
if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
console.log(JSON.stringify(response.headers.get("x-job-id")));

const reader = response.body.getReader();
const decoder = new TextDecoder();
let buffer = "";
for (;;) {
  const { done, value } = await reader.read();
  if (done) break;
  buffer += decoder.decode(value, { stream: true });
  const lines = buffer.split("\n");
  buffer = lines.pop();
  for (const line of lines) {
    if (line.startsWith("data: ")) console.log(JSON.stringify(JSON.parse(line.slice(6))));
  }
}
if (buffer !== "") throw new Error(`left over: ${buffer}`);
