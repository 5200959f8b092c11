/**
 * The load generator: a closed loop of so many lanes, each asking again when it has its answer.
 *
 * Bounded three ways: by time, by a number of requests, and by a deadline for answers that never come.
 */
import { type Sample, sampleOf } from './stats.ts';

const MAX_REQUESTS = 100_000;
/** How long the last answers may take after the loop has ended. */
const GRACE_MS = 30_000;

export interface LoadOptions {
  /** Requests under way at once. */
  readonly concurrency: number;
  /** No request starts after this long; those under way are waited for and counted. */
  readonly durationMs: number;
}

/** Keep `concurrency` requests under way for a while. Rejects with the first failure, or if answers stay out. */
export async function load(request: () => Promise<void>, options: LoadOptions): Promise<Sample> {
  const latencies: number[] = [];
  const start = performance.now();
  const end = start + options.durationMs;
  let asked = 0;
  let failed = false;
  const lane = async () => {
    do {
      asked++;
      const sent = performance.now();
      await request();
      latencies.push(performance.now() - sent);
    } while (!failed && asked < MAX_REQUESTS && performance.now() < end);
  };
  const lanes = Array.from({ length: options.concurrency }, () =>
    lane().catch((error: unknown) => {
      failed = true;
      throw error;
    }),
  );
  await within(options.durationMs + GRACE_MS, Promise.all(lanes));
  return sampleOf(latencies, performance.now() - start);
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`no answer within ${ms} ms`)), ms);
  try {
    await Promise.race([work, late.promise]);
  } finally {
    clearTimeout(timer);
  }
}
