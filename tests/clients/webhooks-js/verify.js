// Verifies a webhook with the published library: secret, headers and body as JSON on standard input, one object a line;
// for each the event's type, or "refused".
import { createRequire } from "node:module";
import { createInterface } from "node:readline";

const { Webhook } = createRequire(`${process.argv[2]}/`)("standardwebhooks");

for await (const line of createInterface({ input: process.stdin })) {
  const { secret, headers, body } = JSON.parse(line);
  try {
    console.log(new Webhook(secret).verify(body, headers).type);
  } catch {
    console.log("refused");
  }
}
