// node parse.mjs DOCUMENT: prints what AsyncAPI's parser says of a document, and the topics and fields that it found.
import { Parser, fromFile } from "@asyncapi/parser";

const { document, diagnostics } = await fromFile(new Parser(), process.argv[2]).parse();
const fields = (message) => Object.keys(message.payload()?.properties() ?? {});
console.log(JSON.stringify({
  problems: diagnostics.filter((d) => d.severity < 2).map((d) => `${d.path.join(".")}: ${d.message}`),
  topics: Object.fromEntries((document?.channels().all() ?? []).map((c) => [c.address(), c.messages().all().flatMap(fields)])),
  operations: Object.fromEntries((document?.operations().all() ?? []).map((o) => [o.id(), o.action()])),
}));
