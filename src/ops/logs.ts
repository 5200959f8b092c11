/**
 * What processes tell their operators, as log lines: JSON, one fact a line, a fixed message with the rest in fields.
 *
 * Invariants:
 *  L1  `error`: somebody must act. `warn`: somebody should look at it by day. `info`: the life of processes: they start, are
 *      ready, drain, lose and find each other. `debug`: what happens per execution, session, call and worker. So at
 *      `info` the number of lines follows that of processes, not that of executions.
 *  L2  No line holds script text, input, arguments, results, output or credentials; the first five only if the operator
 *      asks for them ({@link LogOptions.content}), and then at `debug`.
 *  L3  A line names what it is about by the same fields everywhere: broker, runtime, provider, worker, session, execution,
 *      tenant, tool, code.
 */
import { type Logger, pino } from 'pino';
import type { LinkStatus } from '../bus/nats.ts';
import type { PoolObserver } from '../sandbox/pool.ts';
import type { BrokerNotice } from '../session/broker.ts';
import { StoreError } from '../store/store.ts';
import { errorShown, fieldsShown } from './redaction.ts';

export interface LogOptions {
  /** Show script text, arguments and results at `debug`: for development. Default false. */
  readonly content?: boolean | undefined;
}

/** Of a tool, in UTF-16 units: scripts may write any. */
const MAX_NAME_LENGTH = 128;

/** JSON lines on the standard output. `level` is one of pino's. */
export function createLogger(level: string): Logger {
  return pino({ level });
}

/** JSON lines of one stream, without names of process and host. */
export function linesTo(stream: { write(line: string): unknown }): Logger {
  return pino({ base: null }, { write: (line) => void stream.write(line) });
}

/** A file that lines are added to, each before the call returns; `-` is the standard output. Throws if it cannot be opened. */
export function lineFile(path: string): { write(line: string): unknown } {
  return pino.destination({ dest: path === '-' ? 1 : path, sync: true, mkdir: true });
}

/** A child that names its process's part and holds no credentials, whatever it is given (L2, L3). */
export function childOf(logger: Logger, part: Readonly<Record<string, string>>): Logger {
  // The formatter comes first, and what it made of an error is not to be taken for one again.
  const err = (value: unknown): unknown => (value instanceof Error ? errorShown(value) : value);
  return logger.child(part, { serializers: { err }, formatters: { log: fieldsShown } });
}

/** An observer that writes to a pino logger. */
export function logPool(parent: Logger): PoolObserver {
  const logger = childOf(parent, {});
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
export function logBroker(
  parent: Logger,
  broker: string,
  { content = false }: LogOptions = {},
): (notice: BrokerNotice) => void {
  const logger = childOf(parent, { broker });
  return (notice) => {
    switch (notice.type) {
      case 'lease.lost':
        return logger.warn(
          { incarnation: notice.incarnation, reason: notice.reason },
          'the lease is lost; its sessions go to whoever takes them over',
        );
      case 'session.taken_over':
        return logger.info(
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
      case 'execution.replayed':
      case 'tool.ended':
        // Nearly all notices are of these, and nearly all operators do not read them.
        if (logger.isLevelEnabled('debug')) logExecution(logger, notice, content);
        return;
      case 'execution.audited':
        return; // It has a log of its own.
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
          'malformed messages were dropped',
        );
      case 'error':
        // The store comes back, and whoever asked asks again; anything else is a defect.
        if (notice.error instanceof StoreError)
          return logger.warn(
            { session: notice.session, err: notice.error },
            'a request could not be answered: the store failed',
          );
        return logger.error(
          { session: notice.session, err: notice.error },
          'a request could not be answered',
        );
    }
  };
}

type ExecutionNotice = Extract<
  BrokerNotice,
  { readonly type: 'execution.ended' | 'execution.replayed' | 'tool.ended' }
>;

function logExecution(logger: Logger, notice: ExecutionNotice, content: boolean): void {
  const { session, execution } = notice;
  switch (notice.type) {
    case 'execution.ended': {
      const { tenant, outcome, code, latencyMs, source, result } = notice;
      const shown = content ? { source, result } : undefined;
      return logger.debug(
        { session, execution, tenant, outcome, code, latencyMs, ...shown },
        'execution ended',
      );
    }
    case 'execution.replayed':
      return logger.debug(
        { session, execution, reason: notice.reason },
        'an attempt was lost; its execution is begun again',
      );
    case 'tool.ended': {
      const { outcome, code, durationMs, args } = notice;
      const tool = notice.tool.slice(0, MAX_NAME_LENGTH);
      const shown = content ? { args } : undefined;
      return logger.debug(
        { session, execution, tool, outcome, code, durationMs, ...shown },
        'tool call ended',
      );
    }
  }
}

/** What the store tells, as log lines. */
export function logStore(logger: Logger | undefined): (notice: object) => void {
  const child = logger === undefined ? undefined : childOf(logger, {});
  return (notice) => child?.warn(notice, 'the store is not set up as durable sessions need it');
}

/** What a connection to NATS tells, as log lines. */
export function logLink(parent: Logger | undefined): (status: LinkStatus) => void {
  const logger = parent === undefined ? undefined : childOf(parent, {});
  return (status) => {
    switch (status.type) {
      case 'connected':
        return logger?.info({ server: status.server }, 'NATS is back');
      case 'disconnected':
        return logger?.warn('NATS is away');
      case 'slow': {
        const { subject, dropped, handle } = status;
        return logger?.warn({ subject, dropped, handle }, 'messages were dropped: their reader is too slow');
      }
      case 'refused': {
        const { operation, subject } = status;
        return logger?.error({ operation, subject }, 'NATS does not allow it: the permissions are wrong');
      }
      case 'error':
        return logger?.warn({ err: status.error }, 'NATS complains');
      case 'closed':
        if (status.error === undefined) return;
        return logger?.error({ err: status.error }, 'the connection to NATS is closed for good');
    }
  };
}

/** A message that could not be read, or whose handler failed, as a log line. */
export function logUntaken(parent: Logger | undefined): (error: unknown, subject: string) => void {
  const logger = parent === undefined ? undefined : childOf(parent, {});
  return (error, subject) => logger?.warn({ err: error, subject }, 'a message could not be taken in');
}
