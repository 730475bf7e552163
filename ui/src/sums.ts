// Sums over jobs that the API lists, as far as a few pages of it tell.
import { type Api, type Job, type JobPage, STATUSES } from "./api";

/** Pages of 500 that are read at most: what is beyond is said to be more. */
const MAX_PAGES = 10;

export interface Listing {
  jobs: Job[];
  /** Whether there are more than were read. */
  isCut: boolean;
}

export async function listSince(api: Api, since: Date, user?: string, signal?: AbortSignal): Promise<Listing> {
  const jobs: Job[] = [];
  let cursor: string | null = null;
  for (let page = 0; page < MAX_PAGES; page++) {
    const query = { since: since.toISOString(), limit: 500, cursor, user };
    const answer: JobPage = await api.get<JobPage>("jobs", query, signal);
    jobs.push(...answer.items);
    cursor = answer.next_cursor;
    if (!cursor) break;
  }
  return { jobs, isCut: cursor !== null };
}

/** Return the groups of jobs by some word, the largest first. */
export function groupBy(jobs: Job[], word: (job: Job) => string): [string, Job[]][] {
  const groups = new Map<string, Job[]>();
  for (const job of jobs) groups.set(word(job), [...(groups.get(word(job)) ?? []), job]);
  return [...groups].sort(([, a], [, b]) => b.length - a.length);
}

export const isActive = (job: Job): boolean => STATUSES.indexOf(job.status) < 3;
