/** Load at a pace that nothing slows down: requests are sent when they are due, whatever became of those before. */
import { SIMPLE } from '../scripts.ts';
import { type Sample, sampleOf } from '../stats.ts';

interface Result {
  readonly success: boolean;
  readonly value?: unknown;
  readonly error?: { readonly code: string };
}

export type Run = (source: string) => Promise<Result>;

let texts = 0;

/** Call `act` so often a second. Returns a function that stops it, and tells how often it was called. */
function paced(ratePerSecond: number, act: () => void): () => number {
  const from = performance.now();
  let done = 0;
  const timer = setInterval(
    () => {
      const due = Math.floor(((performance.now() - from) / 1_000) * ratePerSecond);
      for (; done < due; done++) act();
    },
    Math.max(1, Math.floor(1_000 / ratePerSecond)),
  );
  return () => {
    clearInterval(timer);
    return done;
  };
}

/** Flood. What is refused is the flood's own affair. */
export function floodAt(ratePerSecond: number, run: Run): () => number {
  return paced(ratePerSecond, () => void run(SIMPLE.source(texts++)));
}

/** The latencies of a tenant that keeps to its share. Rejects if any of its runs fails or is wrong. */
export async function measureAt(ratePerSecond: number, durationMs: number, run: Run): Promise<Sample> {
  const latencies: number[] = [];
  const under: Promise<void>[] = [];
  const one = async (): Promise<void> => {
    const n = texts++;
    const sent = performance.now();
    const result = await run(SIMPLE.source(n));
    if (!result.success) throw new Error(`the quiet tenant's run failed: ${result.error?.code ?? 'unknown'}`);
    if (result.value !== SIMPLE.expected(n)) throw new Error(`a run returned ${String(result.value)}`);
    latencies.push(performance.now() - sent);
  };
  const start = performance.now();
  const stop = paced(ratePerSecond, () => void under.push(one()));
  await new Promise((resolve) => setTimeout(resolve, durationMs));
  stop();
  await Promise.all(under);
  return sampleOf(latencies, performance.now() - start);
}
