/** What the pool does, as log lines: one fact a line, no script text, no tool arguments. */
import { type Logger, pino } from 'pino';
import type { PoolObserver } from '../sandbox/pool.ts';
import type { BrokerNotice } from '../session/broker.ts';

/** Of a tool, in UTF-16 units: scripts may write any. */
const MAX_NAME_LENGTH = 128;

/** JSON lines on the standard output. `level` is one of pino's. */
export function createLogger(level: string): Logger {
  return pino({ level });
}

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

/** What a broker tells, as log lines. */
export function logBroker(parent: Logger, broker: string): (notice: BrokerNotice) => void {
  const logger = parent.child({ broker });
  return (notice) => {
    switch (notice.type) {
      case 'lease.lost':
        return logger.error(
          { incarnation: notice.incarnation, reason: notice.reason },
          'the lease is lost; its sessions go to whoever takes them over',
        );
      case 'session.taken_over':
        return logger.warn(
          { session: notice.session, epoch: notice.epoch, from: notice.from },
          'session taken over with work in flight',
        );
      case 'session.fenced':
        return logger.debug({ session: notice.session }, 'session is owned here no more');
      case 'session.too_new':
        return logger.warn(
          { session: notice.session },
          'sessions that a newer release stored cannot be read here; brokers of that release must take them',
        );
      case 'execution.ended':
        return logger.debug(
          {
            session: notice.session,
            execution: notice.execution,
            outcome: notice.outcome,
            code: notice.code,
            latencyMs: notice.latencyMs,
          },
          'execution ended',
        );
      case 'execution.replayed':
        return logger.info(
          { session: notice.session, execution: notice.execution, reason: notice.reason },
          'an attempt was lost; its execution is begun again',
        );
      case 'tool.ended':
        return logger.debug(
          {
            session: notice.session,
            execution: notice.execution,
            tool: notice.tool.slice(0, MAX_NAME_LENGTH),
            outcome: notice.outcome,
            code: notice.code,
          },
          'tool call ended',
        );
      case 'session.handed_over':
        return logger.debug({ session: notice.session, to: notice.to }, 'session handed over');
      case 'runtime.heard':
        return logger.info({ runtime: notice.runtime }, 'runtime is there');
      case 'runtime.gone':
        if (notice.drained) return logger.info({ runtime: notice.runtime }, 'runtime has drained');
        return logger.warn({ runtime: notice.runtime }, 'runtime stopped answering');
      case 'tool.conflict':
        return logger.warn(
          { tool: notice.tool, effects: notice.effects },
          'providers disagree about the effect of a tool; the strictest counts',
        );
      case 'runtimes.scaled':
        return logger.info(
          { from: notice.from, to: notice.to, reason: notice.reason },
          'the pool of runtimes is scaled',
        );
      case 'scaling.failed':
        return logger.warn(
          { reason: notice.reason },
          'a runtime could not be started or ended; it is tried again',
        );
      case 'message.dropped':
        return logger.warn(
          { subject: notice.subject, field: notice.field, count: notice.count },
          'messages that are none were dropped',
        );
      case 'error':
        return logger.error(
          { session: notice.session, err: notice.error },
          'a request could not be answered',
        );
    }
  };
}

/** What the store tells, as log lines. */
export function logStore(logger: Logger | undefined): (notice: object) => void {
  return (notice) => logger?.warn(notice, 'the store is not set up as durable sessions need it');
}
