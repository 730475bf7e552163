// What a job has of its user's secrets, as the form holds it and as the API takes it.
import type { FieldError } from "../net/api";
import type { Job, JobRequest, Secret } from "../net/schema";

export interface SecretUse {
  secret: string;
  as: "env" | "file" | "registry";
  /** The name of the variable or of the file. */
  name: string;
}

export const USES: Record<SecretUse["as"], string> = {
  env: "Variable",
  file: "File",
  registry: "Pulls the image",
};

/** The fields of a request that are made of it. */
export const SECRET_FIELDS: (keyof JobRequest)[] = ["secret_env", "secret_files", "registry_secrets"];

/** Return the name that a variable or a file with a secret most likely has. */
export function suggestUseName(secret: string, as: SecretUse["as"]): string {
  if (as === "file") return secret;
  if (as === "registry") return "";
  const word = secret.replace(/[^A-Za-z0-9]+/g, "_").toUpperCase();
  return /^[0-9]/.test(word) ? `_${word}` : word;
}

/** Return how a job most likely uses a secret. */
export function makeUse({ name, kind }: Pick<Secret, "name" | "kind">): SecretUse {
  const as = kind === "registry" ? "registry" : "env";
  return { secret: name, as, name: suggestUseName(name, as) };
}

/** Return what an earlier job had. */
export function listUses(job: Job): SecretUse[] {
  const list = (as: SecretUse["as"], map: Record<string, string>): SecretUse[] =>
    Object.entries(map).map(([name, secret]) => ({ secret, as, name }));
  return [
    ...list("env", job.secret_env),
    ...list("file", job.secret_files),
    ...job.registry_secrets.map((secret): SecretUse => ({ secret, as: "registry", name: "" })),
  ];
}

/** Return in words what a job has of a secret. */
export function describeUse({ secret, as, name }: SecretUse): string {
  if (as === "registry") return `${secret} to pull the image`;
  return `${secret} as ${as === "env" ? name : `file ${name}`}`;
}

/** Return the fields of a request, and what is wrong with them as far as that is known here. */
export function makeSecretFields(uses: SecretUse[]): {
  fields: Partial<Record<keyof JobRequest, unknown>>;
  problems: FieldError[];
} {
  const problems: FieldError[] = [];
  const collect = (as: SecretUse["as"], field: string): Record<string, string> | undefined => {
    const chosen = uses.filter((use) => use.as === as);
    const map: Record<string, string> = {};
    for (const { name, secret } of chosen) {
      if (!name) problems.push({ field, message: `Enter a name for ${secret}.` });
      else if (name in map) problems.push({ field, message: `${name} is there twice.` });
      map[name] = secret;
    }
    return chosen.length ? map : undefined;
  };
  const logins = uses.filter(({ as }) => as === "registry").map(({ secret }) => secret);
  const fields = {
    secret_env: collect("env", "secret_env"),
    secret_files: collect("file", "secret_files"),
    registry_secrets: logins.length ? [...new Set(logins)] : undefined,
  };
  return { fields, problems };
}
