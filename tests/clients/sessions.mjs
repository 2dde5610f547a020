// Uses a session as a caller would: creates it with an empty POST, sends two prompts, lists it and deletes it.
// Prints the answers as lines of JSON.
const [base] = process.argv.slice(2);

async function said(response) {
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  return response.json();
}

async function* stream(sessionId, prompt) {
  const response = await fetch(`${base}/api/stream/${sessionId}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ prompt }),
  });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  const decoder = new TextDecoder();
  let buffer = "";
  for await (const chunk of response.body) {
    buffer += decoder.decode(chunk, { stream: true });
    const lines = buffer.split("\n");
    buffer = lines.pop();
    for (const line of lines) if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
  }
}

const { sessionId } = await said(await fetch(`${base}/api/sessions`, { method: "POST" }));
for (const prompt of ["first", "second"]) {
  for await (const event of stream(sessionId, prompt)) {
    if (event.type === "connected" || event.type === "completed") console.log(JSON.stringify(event));
  }
}
console.log(JSON.stringify(await said(await fetch(`${base}/api/sessions`))));
console.log(JSON.stringify(await said(await fetch(`${base}/api/sessions/${sessionId}`, { method: "DELETE" }))));
