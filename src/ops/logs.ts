/** What the pool does, as log lines: one fact a line, no script text, no tool arguments. */
import type { Logger } from 'pino';
import type { PoolObserver } from '../sandbox/pool.ts';

/** An observer that writes to a pino logger. Crashes and escalations are warnings and errors; the rest is debug. */
export function logPool(logger: Logger): PoolObserver {
  return {
    workerReady: (worker, pid, startMs) =>
      logger.debug({ worker, pid, startMs: Math.round(startMs) }, 'worker ready'),
    workerRetired: (worker, reason, detail) => {
      if (reason === 'crash' || reason === 'killed') logger.warn({ worker, reason, detail }, 'worker lost');
      else logger.debug({ worker, reason }, 'worker retired');
    },
    escalated: (retryAfterMs, crashes) =>
      logger.error(
        { retryAfterMs, crashes },
        'workers crash too often; runs are refused until the pool has cooled down',
      ),
    violation: (worker, error) =>
      logger.error({ worker, err: error }, 'worker broke the protocol and was killed'),
  };
}
