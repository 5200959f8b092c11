/** Systems with real worker processes, and the means to take parts of them away. */
import { expect } from 'vitest';
import {
  type CreateSystemOptions,
  createSystem,
  type ErrorCode,
  type ExecutionEvent,
  type ExecutionResult,
  type SessionRef,
  type System,
} from '../../src/index.ts';
import type { JournalRead } from '../../src/protocol.ts';
import { journalOf } from '../../src/session/commands.ts';
import { isAlive } from './processes.ts';

export { waitUntil as until } from './processes.ts';

const opened: System[] = [];

/** A system of one worker per runtime that {@link closeAll} closes. */
export async function open(options: CreateSystemOptions = {}): Promise<System> {
  const system = await createSystem({ ...options, pool: { poolSize: 1, ...options.pool } });
  opened.push(system);
  return system;
}

export async function closeAll(): Promise<void> {
  await Promise.all(opened.splice(0).map((system) => system.close()));
}

/** The worker processes of a runtime, or of all. */
export function pidsOf(system: System, runtime?: string): readonly number[] {
  return Object.entries(system.stats())
    .filter(([id]) => runtime === undefined || id === runtime)
    .flatMap(([, { workers }]) => workers.map(({ pid }) => pid));
}

/** SIGKILL the workers of a runtime. Returns their pids. */
export function killWorkers(system: System, runtime: string): readonly number[] {
  const pids = pidsOf(system, runtime).filter((pid) => pid > 0 && isAlive(pid));
  for (const pid of pids) process.kill(pid, 'SIGKILL');
  return pids;
}

/** The runtime that runs the session's script, or ran the last one, as its owner knows it. */
export function runtimeOf(system: System, session: string): string {
  for (const { broker } of system.parts.brokers) {
    const runtime = broker.actor(session)?.context.runtime;
    if (runtime !== undefined) return runtime;
  }
  throw new Error(`session ${session} has no owner that ran anything`);
}

/** The broker that hosts the session's actor, and its provider; undefined while none does. */
export function hostOf(system: System, session: string) {
  return system.parts.brokers.find(({ broker }) => broker.actor(session) !== undefined);
}

/** Every event that the session's log has, read from its start. */
export async function logOf(session: SessionRef): Promise<readonly ExecutionEvent[]> {
  const { seq } = await session.info();
  const events: ExecutionEvent[] = [];
  if (seq === 0) return events;
  for await (const event of session.events({ fromSeq: 1 })) {
    events.push(event);
    if (event.seq >= seq) break;
  }
  return events;
}

/** The journal of an execution, as its owner reads it out. */
export async function journalIn(system: System, session: string, execution: string): Promise<JournalRead> {
  const actor = hostOf(system, session)?.broker.actor(session);
  if (actor === undefined) throw new Error(`session ${session} has no owner`);
  const reply = await journalOf(actor, execution);
  if (!reply.ok) throw new Error(reply.error.message);
  return reply.value;
}

/** Collects a session's events as they come, from the first on, until it is stopped. */
export function subscribe(session: SessionRef): {
  readonly events: readonly ExecutionEvent[];
  stop(): Promise<void>;
} {
  const events: ExecutionEvent[] = [];
  const controller = new AbortController();
  const reading = (async () => {
    for await (const event of session.events({ fromSeq: 1, signal: controller.signal })) events.push(event);
  })();
  return {
    events,
    stop: () => {
      controller.abort();
      return reading;
    },
  };
}

/** What two runs of one script must agree on: everything but time. */
export function timeless(events: readonly ExecutionEvent[]): readonly unknown[] {
  return events.map(({ type, payload }) => {
    if (type !== 'final') return [type, payload];
    return [type, { ...payload, stats: { ...payload.stats, durationMs: 0 } }];
  });
}

export function expectContiguous(events: readonly ExecutionEvent[]): void {
  expect(events.map(({ seq }) => seq)).toEqual(events.map((_event, index) => index + 1));
}

/** The code of a rejection, or of a throw within the call. */
export async function codeOf(act: () => unknown): Promise<ErrorCode | undefined> {
  return (await refusalOf(act)).code;
}

export async function refusalOf(
  act: () => unknown,
): Promise<{ readonly code?: ErrorCode; readonly key?: string; readonly message: string }> {
  try {
    await act();
  } catch (error) {
    return error as Error & { readonly code?: ErrorCode; readonly key?: string };
  }
  throw new Error('it was not refused');
}

/** The code of a failed result; undefined for a success. */
export const failureOf = (result: ExecutionResult): ErrorCode | undefined =>
  result.success ? undefined : result.error.code;

/** A gate that handlers wait at, and the number of those who do. */
export class Gate {
  readonly #open = Promise.withResolvers<void>();
  #waiting = 0;

  get waiting(): number {
    return this.#waiting;
  }
  async pass(): Promise<void> {
    this.#waiting++;
    await this.#open.promise;
    this.#waiting--;
  }
  open(): void {
    this.#open.resolve();
  }
}
