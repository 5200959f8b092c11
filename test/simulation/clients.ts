/**
 * What clients do: create sessions, run programs in them, send the same again, cancel, move, close, and read events.
 * What they are told is held to what was committed.
 */
import type { ExecutionEvent } from '../../actors/events.ts';
import type { Bus } from '../../src/bus/bus.ts';
import { SessionClient } from '../../src/client/client.ts';
import type { ExecutionHandle } from '../../src/client/execution.ts';
import type { SessionRef } from '../../src/client/session.ts';
import { EnclaveError } from '../../src/errors.ts';
import { resolveSessionLimits } from '../../src/options.ts';
import type { ExecutionResult } from '../../src/result.ts';
import type { Subjects } from '../../src/subjects.ts';
import type { Checker } from './checker.ts';
import type { Ledger } from './ledger.ts';
import type { Process } from './process.ts';
import { makeProgram, type ProgramStyle } from './program.ts';
import type { Random } from './random.ts';
import { Violation } from './violation.ts';

const LIMITS = resolveSessionLimits(undefined);

/** What clients did and were told, by the first word of its line in the trace. */
export const ACTIONS = [
  'spawns',
  'executes',
  'hears',
  'cancels',
  'has',
  'came',
  'could',
  'reads',
  'stops',
  'info',
  'journal',
  'migrate',
  'hibernate',
  'result',
  'close',
] as const;
export type Action = (typeof ACTIONS)[number];

interface Command {
  readonly session: string;
  readonly id: string;
  readonly source: string;
  readonly seed: number;
  /** By the clock of the client that issued it first. */
  readonly issuedAt: number;
  readonly submissions: Submission[];
}

interface Submission {
  readonly source: string;
  readonly client: Process;
  readonly handle: ExecutionHandle;
  state: 'pending' | 'accepted' | 'refused' | 'doubtful';
  settled: boolean;
}

interface Reader {
  readonly session: string;
  readonly client: Process;
  /** The number expected next; undefined before the first. */
  next: number | undefined;
  over: boolean;
}

export interface SessionPlan {
  readonly id: string;
  readonly executions: number;
  readonly maxConcurrentExecutions: number;
  readonly ttlMs: number;
}

export interface ClientsOptions {
  readonly random: Random;
  readonly ledger: Ledger;
  readonly checker: Checker;
  readonly plans: readonly SessionPlan[];
  readonly style: ProgramStyle;
  readonly subjects: Subjects;
  readonly brokers: () => readonly string[];
  /** Filled with what they asked for: executions to be cancelled, sessions to be closed. */
  readonly cancelled: Set<string>;
  readonly closed: Set<string>;
  readonly note: (who: string, what: string) => void;
  readonly report: (error: unknown) => void;
}

export class Clients {
  readonly #options: ClientsOptions;
  readonly #clients = new Map<Process, SessionClient>();
  readonly #commands: Command[] = [];
  readonly #readers: Reader[] = [];
  readonly #spawned = new Set<string>();
  readonly #left: Map<string, number>;
  readonly counts: Partial<Record<Action, number>> = {};

  constructor(options: ClientsOptions) {
    this.#options = options;
    this.#left = new Map(options.plans.map(({ id, executions }) => [id, executions]));
  }

  add(process: Process, bus: Bus): void {
    const client = new SessionClient({
      id: process.id,
      bus,
      clock: process.clock,
      subjects: this.#options.subjects,
      defaults: { limits: LIMITS, isolation: 'context' },
    });
    this.#clients.set(process, client);
    process.onDeath.push(() => this.#clients.delete(process));
    void client.start();
  }

  /** Nothing that a living client asked for is open. */
  get settled(): boolean {
    return this.#commands.every(({ submissions }) =>
      submissions.every(({ client, settled }) => settled || !client.alive),
    );
  }

  get openCommands(): readonly string[] {
    return this.#commands.flatMap(({ session, id, submissions }) =>
      submissions.some(({ client, settled }) => !settled && client.alive) ? [`${session}/${id}`] : [],
    );
  }

  /** One of them does something. */
  act(): void {
    const { random } = this.#options;
    const clients = [...this.#clients].filter(([process]) => process.alive && !process.paused);
    if (clients.length === 0) return;
    const [process, client] = random.pick(clients);
    const plan = random.pick(this.#options.plans);
    if (!this.#spawned.has(plan.id)) return this.#spawn(process, client, plan);
    const session = client.session(plan.id);
    const dice = random.below(100);
    if (dice < 50) return this.#execute(process, session);
    if (dice < 64) return this.#repeat(process, session);
    if (dice < 70) return this.#cancel(process);
    if (dice < 77) return this.#migrate(process, session);
    if (dice < 83) return this.#do('hibernate', process, session, () => session.hibernate());
    if (dice < 84) {
      this.#options.closed.add(session.id);
      return this.#do('close', process, session, () => session.close());
    }
    if (dice < 88) return this.#do('info', process, session, () => session.info());
    if (dice < 92) return this.#ask(process, session);
    if (dice < 94) return this.#readJournal(process, client, session);
    this.#watch(process, session);
  }

  /** At the end: what must hold of everything that clients were told. */
  finish(complete: boolean): void {
    for (const { session, id, submissions } of this.#commands) {
      const began = this.#options.ledger.execution(session, id) !== undefined;
      if (began && submissions.every(({ state }) => state === 'refused'))
        throw new Violation('I2', `${session}/${id} was refused as not started each time, and ran`);
    }
    if (!complete) return;
    for (const { session, client, next, over } of this.#readers) {
      const last = this.#options.ledger.session(session)?.events.length ?? 0;
      if (!over && client.alive && next !== undefined && next !== last + 1)
        throw new Violation(
          'I4',
          `a reader of ${session} in ${client.id} waits for event ${next}; there are ${last}`,
        );
    }
  }

  // ---- what they do --------------------------------------------------------------------------------------

  #spawn(process: Process, client: SessionClient, { id, maxConcurrentExecutions, ttlMs }: SessionPlan): void {
    this.#spawned.add(id);
    this.#note(process, 'spawns', id);
    client.spawn({ id, maxConcurrentExecutions, ttlMs }).then(
      () => {
        if (this.#options.ledger.session(id) === undefined)
          this.#options.report(new Violation('I2', `${id} was created, and was never committed`));
      },
      () => this.#spawned.delete(id),
    );
  }

  #execute(process: Process, session: SessionRef): void {
    const { random, style } = this.#options;
    const left = this.#left.get(session.id) ?? 0;
    if (left === 0) return;
    this.#left.set(session.id, left - 1);
    const command: Command = {
      session: session.id,
      id: `x${this.#commands.length + 1}`,
      source: makeProgram(random, style),
      seed: random.next(),
      issuedAt: process.clock.now(),
      submissions: [],
    };
    this.#commands.push(command);
    this.#submit(process, session, command, command.source);
  }

  /** The same id again: mostly with the same bytes. */
  #repeat(process: Process, session: SessionRef): void {
    const { random, style } = this.#options;
    const commands = this.#commands.filter((command) => command.session === session.id);
    if (commands.length === 0) return;
    const command = random.pick(commands);
    this.#submit(
      process,
      session,
      command,
      random.chance(0.85) ? command.source : makeProgram(random, style),
    );
  }

  #submit(process: Process, session: SessionRef, command: Command, source: string): void {
    const { random, checker } = this.#options;
    const { id, seed, issuedAt } = command;
    this.#note(
      process,
      'executes',
      `${session.id}/${id}${source === command.source ? '' : ' with other bytes'}`,
    );
    const handle = session.execute(source, { commandId: id, seed, issuedAt });
    const submission: Submission = { source, client: process, handle, state: 'pending', settled: false };
    command.submissions.push(submission);
    if (random.chance(0.3)) void this.#follow(process, handle, session.id);
    handle.accepted.then(
      () => {
        submission.state = 'accepted';
        this.#note(process, 'hears accepted', `${session.id}/${id}`);
        this.#guard(() => checker.acknowledged(session.id, id));
      },
      (error: unknown) => {
        submission.state =
          error instanceof EnclaveError && error.outcome === 'not_started' ? 'refused' : 'doubtful';
        this.#note(process, 'hears refused', `${session.id}/${id} ${codeOf(error)}`);
        this.#guard(() => this.#checkRefusal(command, submission, error));
      },
    );
    void handle.result.then(async (result) => {
      // The acknowledgement is told first.
      await Promise.resolve();
      submission.settled = true;
      this.#note(
        process,
        'hears the end of',
        `${session.id}/${id} ${result.success ? 'ok' : result.error.code}`,
      );
      this.#guard(() => this.#checkResult(session.id, id, submission, result));
    });
  }

  #checkRefusal({ session, id, submissions }: Command, { source }: Submission, error: unknown): void {
    const code = error instanceof EnclaveError ? error.code : '';
    if (code === 'COMMAND_CONFLICT' && submissions.every((other) => other.source === source))
      throw new Violation('I2', `${session}/${id} was refused as a conflict, and was always the same`);
    const ledger = this.#options.ledger.session(session);
    if (code === 'COMMAND_EXPIRED' && ledger?.forgot === false)
      throw new Violation('I2', `${session}/${id} was refused as expired, and nothing was forgotten`);
  }

  #checkResult(session: string, id: string, submission: Submission, result: ExecutionResult): void {
    const { ledger, checker } = this.#options;
    if (submission.state === 'refused' || submission.state === 'doubtful') return;
    const lost = !result.success && result.error.outcome === 'unknown' && result.stats.attempts === 0;
    if (lost && ['CLOSED', 'NOT_FOUND', 'UNAVAILABLE'].includes(result.error.code)) {
      const execution = ledger.execution(session, id);
      if (result.error.code === 'NOT_FOUND' && execution?.forgotten === false)
        throw new Violation(
          'I5',
          `${session}/${id} was accepted and is remembered, and a client was told ${result.error.message}`,
        );
      return;
    }
    checker.told(session, id, result);
  }

  #cancel(process: Process): void {
    const { random } = this.#options;
    const open = this.#commands.flatMap(({ session, id, submissions }) =>
      submissions
        .filter(({ client, settled }) => client === process && !settled)
        .map(({ handle }) => ({ session, id, handle })),
    );
    if (open.length === 0) return;
    const { session, id, handle } = random.pick(open);
    this.#options.cancelled.add(`${session}/${id}`);
    this.#note(process, 'cancels', `${session}/${id}`);
    handle.cancel('because').then(
      (cancelled) => {
        this.#note(process, cancelled ? 'has cancelled' : 'came too late to cancel', `${session}/${id}`);
      },
      () => undefined,
    );
  }

  #migrate(process: Process, session: SessionRef): void {
    const { random, brokers } = this.#options;
    const to = random.chance(0.5) && brokers().length > 0 ? random.pick(brokers()) : undefined;
    this.#do(`migrate${to === undefined ? '' : ` to ${to}`}`, process, session, () =>
      session.migrate({ to }),
    );
  }

  #ask(process: Process, session: SessionRef): void {
    const { random, checker } = this.#options;
    const accepted = this.#commands.filter(
      (command) =>
        command.session === session.id && command.submissions.some(({ state }) => state === 'accepted'),
    );
    if (accepted.length === 0) return;
    const { id } = random.pick(accepted);
    this.#do(`result of ${id}`, process, session, async () => {
      const result = await session.result(id);
      this.#guard(() => checker.told(session.id, id, result));
    });
  }

  #readJournal(process: Process, client: SessionClient, session: SessionRef): void {
    const { random } = this.#options;
    const commands = this.#commands.filter((command) => command.session === session.id);
    if (commands.length === 0) return;
    const { id } = random.pick(commands);
    this.#do(`journal of ${id}`, process, session, () => client.journal(session.id, id));
  }

  #do(what: string, process: Process, session: SessionRef, act: () => Promise<unknown>): void {
    this.#note(process, what, session.id);
    act().then(
      () => this.#note(process, `has done: ${what}`, session.id),
      (error: unknown) => {
        this.#note(process, `could not: ${what}`, `${session.id} ${codeOf(error)}`);
        if (!(error instanceof EnclaveError)) this.#options.report(error);
      },
    );
  }

  // ---- events --------------------------------------------------------------------------------------------

  #watch(process: Process, session: SessionRef): void {
    const { random } = this.#options;
    const fromSeq = random.chance(0.6) ? 1 : undefined;
    const reader: Reader = { session: session.id, client: process, next: fromSeq, over: false };
    this.#readers.push(reader);
    this.#note(process, `reads events from ${fromSeq ?? 'now'}`, session.id);
    void this.#read(reader, session.events(fromSeq === undefined ? {} : { fromSeq }));
  }

  async #read(reader: Reader, events: AsyncIterable<ExecutionEvent>): Promise<void> {
    try {
      for await (const event of events) {
        this.#guard(() => this.#checkEvent(reader.session, event));
        if (reader.next !== undefined && event.seq !== reader.next)
          this.#options.report(
            new Violation(
              'I4',
              `a reader of ${reader.session} got event ${event.seq} instead of ${reader.next}`,
            ),
          );
        reader.next = event.seq + 1;
      }
    } catch (error) {
      this.#note(reader.client, 'stops reading', `${reader.session} ${codeOf(error)}`);
      if (!(error instanceof EnclaveError)) this.#options.report(error);
    }
    reader.over = true;
  }

  /** One execution's events: from its first to its last, in order. */
  async #follow(process: Process, handle: ExecutionHandle, session: string): Promise<void> {
    let last: ExecutionEvent | undefined;
    try {
      for await (const event of handle) {
        this.#guard(() => this.#checkEvent(session, event));
        if (event.executionId !== handle.id || (last !== undefined && event.seq <= last.seq))
          this.#options.report(
            new Violation('I4', `a follower of ${handle.id} got event ${event.seq} of ${event.executionId}`),
          );
        last = event;
      }
    } catch (error) {
      this.#note(process, 'stops following', `${session}/${handle.id} ${codeOf(error)}`);
      if (!(error instanceof EnclaveError)) this.#options.report(error);
    }
  }

  #checkEvent(session: string, event: ExecutionEvent): void {
    const committed = this.#options.ledger.session(session)?.events[event.seq - 1];
    if (committed !== JSON.stringify(event))
      throw new Violation(
        'I4',
        `a client got event ${event.seq} of ${session} as ${JSON.stringify(event)}; committed: ${committed}`,
      );
  }

  #guard(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.#options.report(error);
    }
  }

  #note(process: Process, what: string, whom: string): void {
    const word = what.split(' ')[0];
    const verb = ACTIONS.find((each) => each === word);
    if (verb === undefined) throw new Error(`"${what}" is no known action`);
    this.counts[verb] = (this.counts[verb] ?? 0) + 1;
    this.#options.note(process.id, `${what} ${whom}`);
  }
}

function codeOf(error: unknown): string {
  return error instanceof EnclaveError ? `${error.code} ${error.outcome}` : String(error);
}
