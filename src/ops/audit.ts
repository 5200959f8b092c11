/**
 * Where the records of the audit go: one message on the bus and one line of a log, each at most once from one broker.
 * A broker that takes a durable session over tells again what the one before may not have told; `execution` tells
 * who reads them that it is the same.
 */
import type { Logger } from 'pino';
import type { Bus } from '../bus/bus.ts';
import { invalidArgument } from '../errors.ts';
import type { AuditRecord } from '../session/audit.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { linesTo } from './logs.ts';

/** Takes lines of JSON, such as a file's stream. */
export interface AuditStream {
  write(line: string): unknown;
}

/** A pino logger or a stream that gets a line for each record; true: they are published only. */
export type AuditSink = Logger | AuditStream | true;

/** What tells of one record. */
export type Auditor = (record: AuditRecord) => void;

/** Publishes each record, and writes it where it is wanted. What cannot be written is told to the process's own log. */
export function auditor(sink: AuditSink, bus: Bus, subjects: Subjects, log: Logger | undefined): Auditor {
  const logger = sink === true ? undefined : isLogger(sink) ? sink.child({ audit: true }) : linesTo(sink);
  return (record) => {
    try {
      logger?.info(record, 'execution audited');
    } catch (error) {
      const { session, execution } = record;
      log?.error({ session, execution, err: error }, 'a record of the audit could not be written');
    }
    // The line is written; the message is at most once.
    publishOrDrop(bus, subjects.audit, record);
  };
}

/** Throws INVALID_ARGUMENT naming `key`. */
export function checkAudit(sink: unknown, key: string): void {
  if (sink === undefined || sink === true || isLogger(sink)) return;
  if (typeof (sink as Partial<AuditStream> | null)?.write !== 'function')
    throw invalidArgument(key, 'must be a pino logger, a stream, or true');
}

function isLogger(sink: unknown): sink is Logger {
  return typeof (sink as { readonly child?: unknown } | null)?.child === 'function';
}
