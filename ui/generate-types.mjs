// Write the types of the API as TypeScript to standard output, from its OpenAPI document on standard input.
import { readFileSync } from "node:fs";
import { compile } from "json-schema-to-typescript";

// without texts and lengths: then the types change only when the API does
const UNTYPED = ["maxItems", "minItems"];
const isUntyped = (key, value) => UNTYPED.includes(key) || (key === "description" && typeof value === "string");
const read = (text) => JSON.parse(text, (key, value) => (isUntyped(key, value) ? undefined : value));
const { schemas } = read(readFileSync(0, "utf8")).components;

const root = JSON.parse(JSON.stringify({ definitions: schemas }).replaceAll("#/components/schemas/", "#/definitions/"));
const types = await compile(root, "Schemas", {
  additionalProperties: false,
  bannerComment: "",
  style: { printWidth: 120 },
  unreachableDefinitions: true,
});
// the compiler adds a root, and a comment to each definition that the root refers to it
const ours = types.replace(/export interface Schemas \{[^}]*\}\n|\/\*\*\n \* This interface was [^/]*\*\/\n/g, "");

process.stdout.write(`// Made by scripts/generate_types.py from what the handlers declare: do not edit.

${ours}
/** All statuses, in the order in which a job has them. */
export const STATUSES: Status[] = ${JSON.stringify(schemas.Status.enum)};

/** The names of all fields of a request. */
export const REQUEST_FIELDS: (keyof JobRequest)[] = ${JSON.stringify(Object.keys(schemas.JobRequest.properties))};
`);
