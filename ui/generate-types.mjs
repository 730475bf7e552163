// Write the types of the API to standard output, as TypeScript, of its OpenAPI document on standard input.
import { readFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

const { schemas } = JSON.parse(readFileSync(0, "utf8")).components;

// with what the compiler adds of its own: a root that refers to all, and a comment that says so of each
const root = JSON.parse(JSON.stringify({ definitions: schemas }).replaceAll("#/components/schemas/", "#/definitions/"));
const types = await compile(root, "Schemas", {
  additionalProperties: false,
  bannerComment: "",
  ignoreMinAndMaxItems: true,
  style: { printWidth: 120 },
  unreachableDefinitions: true,
});
const ours = types
  .replace(/export interface Schemas \{[^}]*\}\n/, "")
  .replace(
    /( \*\n)? \* This interface was referenced by `Schemas`'s JSON-Schema\n \* via the `definition` ".*"\.\n/g,
    "",
  )
  .replace(/\/\*\*\n \*\/\n/g, "");

process.stdout.write(`// Made by scripts/generate_types.py from what the handlers declare: not to be edited.

${ours}
/** All statuses, in the order in which a job has them. */
export const STATUSES: Status[] = ${JSON.stringify(schemas.Status.enum)};

/** The names of all fields of a request. */
export const REQUEST_FIELDS: (keyof JobRequest)[] = ${JSON.stringify(Object.keys(schemas.JobRequest.properties))};
`);
