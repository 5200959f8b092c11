/**
 * Stateless runs: a script, its result, and nothing that is kept. A run is a session's actor without a store, which
 * lives for one execution in the broker that took it: it survives workers, runtimes and tool providers like any
 * other, and is lost with its broker.
 *
 * All runs of a broker share one *home*, which stands for a session in subjects. So a run costs no subscription.
 *
 * Invariants:
 *  N1  A run is taken once: the same id again is answered as before while it is remembered.
 *  N2  What was refused did not start.
 *  N3  A result is in the answer if it comes within {@link ANSWER_MS}; else it is told, and remembered for
 *      {@link REMEMBER_MS} for those whom that did not reach.
 */
import { newSession } from '../../actors/session.ts';
import type { SessionSettings } from '../../actors/sessiondata.ts';
import type { Bus, Message, Subscription, TraceHeaders } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import type { ProviderMessage, Reply, Report, ResultAnswer, RunTaken } from '../protocol.ts';
import { failure, success } from '../replies.ts';
import { type Subjects, TOOLS } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import type { Acks } from './acks.ts';
import { SessionActor } from './actor.ts';
import type { Admission } from './admission.ts';
import { admissionKey, tenantOf } from './admitted.ts';
import { attempt, commandOf, type NewRun } from './asked.ts';
import { maxOfferBytes } from './attempts.ts';
import { answerCommand } from './commands.ts';
import type { Directory } from './directory.ts';
import { type Dropped, lastOf, providerMessageOf } from './heard.ts';
import type { Notify } from './notice.ts';
import { Unstored } from './persistence.ts';
import type { PlacementQueue } from './queue.ts';
import { reportOf } from './reports.ts';
import { notNow, overLimit, type Respond } from './responses.ts';
import type { ToolDirectory } from './tooldirectory.ts';

/** An execution that takes longer than this is answered as taken, in ms: long work never sits in a request. */
const ANSWER_MS = 100;
/** How long results are remembered, in ms, and how many bytes of them at most. */
const REMEMBER_MS = 60_000;
const MAX_REMEMBERED_BYTES = 32 * 1024 * 1024;

export interface RunsOptions {
  readonly broker: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly directory: Directory;
  readonly queue: PlacementQueue;
  readonly admission: Admission;
  readonly acks: Acks;
  readonly tools: Pick<ToolDirectory, 'allowing'>;
  readonly settings: SessionSettings;
  /** Runs that are here at once. Over it: OVERLOADED. */
  readonly maxRuns: number;
  /** True while the broker takes runs on. */
  readonly isOpen: () => boolean;
  /** True once it does nothing any more. */
  readonly isClosed: () => boolean;
  readonly respond: Respond;
  /** Of every run, whatever it was asked for with. */
  readonly redactEvents: boolean;
  /** Have a record made of every run that ends. */
  readonly audit: boolean;
  readonly notify: Notify;
  readonly losses: Losses;
  /** Told of what is no message. */
  readonly dropped: Pick<Dropped, 'note'>;
}

interface Here {
  readonly actor: SessionActor;
  readonly tell: string;
  /** Answers who waits for it; undefined once that has happened. */
  answer: ((reply: Reply<RunTaken>) => void) | undefined;
}

interface Remembered {
  readonly result: string;
  readonly until: number;
}

export class Runs {
  /** Stands for a session in subjects. */
  readonly home: string;
  readonly #options: RunsOptions;
  readonly #runs = new Map<string, Here>();
  readonly #remembered = new Map<string, Remembered>();
  #rememberedBytes = 0;
  #subscriptions: Subscription[] = [];
  #drained: (() => void)[] = [];

  constructor(options: RunsOptions) {
    this.#options = options;
    this.home = `run-${options.clock.id()}`;
  }

  get size(): number {
    return this.#runs.size;
  }

  /** What drives them. */
  *actors(): Iterable<SessionActor> {
    for (const { actor } of this.#runs.values()) yield actor;
  }

  /** Hear what runtimes, providers and clients say to runs. */
  listen(): void {
    const { bus, subjects, respond } = this.#options;
    this.#subscriptions = [
      bus.subscribe(subjects.sessionIn(this.home, '*'), (message) => this.#hear(message)),
      bus.subscribe(subjects.sessionCmd(this.home), (message) =>
        respond(message, (body) => this.#command(body)),
      ),
    ];
  }

  /** Resolves when every run here has ended. */
  ended(): Promise<void> {
    if (this.#runs.size === 0) return Promise.resolve();
    return new Promise((resolve) => this.#drained.push(resolve));
  }

  sweep(): void {
    const now = this.#options.clock.monotonic();
    for (const { actor } of this.#runs.values()) actor.sweep();
    for (const [id, { result, until }] of this.#remembered) {
      if (until > now && this.#rememberedBytes <= MAX_REMEMBERED_BYTES) break;
      this.#remembered.delete(id);
      this.#rememberedBytes -= result.length;
    }
  }

  runtimeGone(runtime: string): void {
    for (const { actor } of this.#runs.values()) actor.runtimeGone(runtime);
  }

  /** Say nothing more. What runs ends with its runtime's patience. */
  stop(): void {
    for (const subscription of this.#subscriptions.splice(0)) subscription.unsubscribe();
    for (const { actor } of [...this.#runs.values()]) actor.silence();
    this.#runs.clear();
    for (const drained of this.#drained.splice(0)) drained();
  }

  // ---- taking one ----------------------------------------------------------------------------------------

  /** Take a run on. Resolves with its result, or without after {@link ANSWER_MS}. */
  take(asked: NewRun, trace?: TraceHeaders): Promise<Reply<RunTaken>> {
    const refused = this.#refusal(asked);
    if (refused !== undefined) return Promise.resolve(refused);
    return new Promise((answer) => {
      const calledOff = this.#options.clock.after(ANSWER_MS, () => {
        here.answer = undefined;
        answer(success({ home: this.home, result: undefined, deadlineMs: asked.limits.deadlineMs }, 0));
      });
      const here: Here = {
        actor: this.#actor(asked),
        tell: asked.tell,
        answer: (reply) => {
          calledOff();
          answer(reply);
        },
      };
      this.#runs.set(asked.run, here);
      void this.#start(here, asked, trace);
    });
  }

  /** N1, N2. Undefined: it is admitted. */
  #refusal({ run, source, input, limits, tenant }: NewRun): Reply<RunTaken> | undefined {
    const { isOpen, maxRuns, bus, losses, admission } = this.#options;
    const known = this.#remembered.get(run);
    if (known !== undefined) return success({ home: this.home, result: known.result }, 0);
    if (this.#runs.has(run))
      return success({ home: this.home, result: undefined, deadlineMs: limits.deadlineMs }, 0);
    if (!isOpen()) return notNow();
    if (this.#runs.size >= maxRuns) {
      losses.overloaded('runs');
      return failure('OVERLOADED', 'The broker has as many runs as it takes', 0, { retryAfterMs: 250 });
    }
    if (Buffer.byteLength(source) > limits.maxSourceBytes)
      return failure('SOURCE_LIMIT_EXCEEDED', `The source is larger than ${limits.maxSourceBytes} bytes`, 0);
    const most = maxOfferBytes(bus);
    if (Buffer.byteLength(source) + Buffer.byteLength(input) > most)
      return failure(
        'SOURCE_LIMIT_EXCEEDED',
        `Source and input are more than a message to a runtime carries (${most} bytes)`,
        0,
      );
    const counted = tenantOf(tenant);
    // As its actor names it.
    const admitted = admission.admit(counted, admissionKey(run, run));
    return typeof admitted === 'object' ? overLimit(admitted, counted, 0) : undefined;
  }

  #actor({ run: id, isolation, limits, tenant, tools, labels, events, redactEvents }: NewRun): SessionActor {
    const { bus, clock, subjects, directory, queue, admission, acks, settings } = this.#options;
    const { isClosed, notify, losses } = this.#options;
    const context = newSession({ id, settings: { ...settings, labels }, now: clock.now() });
    const actor: SessionActor = new SessionActor({
      id,
      broker: this.#options.broker,
      run: { home: this.home, tenant, events },
      bus,
      clock,
      subjects,
      directory,
      queue,
      admission,
      acks,
      persistence: new Unstored(),
      mayAct: () => !isClosed(),
      // Nobody takes a run over.
      leaseLeftMs: () => limits.deadlineMs,
      tools: this.#options.tools.allowing(tools),
      isolation,
      limits,
      snapshot: { value: 'idle', context },
      state: '{}',
      live: new Map(),
      seq: 0,
      publishedSeq: 0,
      redactEvents: redactEvents === true || this.#options.redactEvents,
      audit: this.#options.audit,
      onSilenced: () => this.#forget(id),
      onPurge: () => undefined,
      onEnded: (execution, result) => this.#ended(execution, result),
      notify,
      losses,
    });
    return actor;
  }

  async #start(
    here: Here,
    { run, source, input, seed, limits }: NewRun,
    trace: TraceHeaders | undefined,
  ): Promise<void> {
    const { clock } = this.#options;
    const { maxToolCalls, maxConcurrentToolCalls, timeoutMs, deadlineMs } = limits;
    const answer = await here.actor.request(
      {
        id: run,
        fingerprint: '',
        issuedAt: clock.now(),
        tell: '',
        limits: { maxToolCalls, maxConcurrentToolCalls, timeoutMs, deadlineMs },
      },
      { source, input, seed, limits, trace },
    );
    if (answer?.ok === true || this.#runs.get(run) !== here) return;
    here.actor.dismiss(run);
    here.answer?.(notNow());
    here.actor.silence();
  }

  // ---- its end -------------------------------------------------------------------------------------------

  /** N3 */
  #ended(run: string, result: string): void {
    const { bus, clock } = this.#options;
    const here = this.#runs.get(run);
    if (here === undefined) return;
    if (here.answer !== undefined) {
      here.answer(success({ home: this.home, result }, 0));
    } else {
      // Without it the client asks by itself.
      publishOrDrop(bus, here.tell, { session: this.home, execution: run, result });
    }
    this.#remembered.set(run, { result, until: clock.monotonic() + REMEMBER_MS });
    this.#rememberedBytes += result.length;
    // What its end still has to do, cancelling calls or stopping its attempt, was done before this was told.
    here.actor.silence();
  }

  #forget(run: string): void {
    this.#runs.delete(run);
    if (this.#runs.size === 0) for (const drained of this.#drained.splice(0)) drained();
  }

  // ---- what it hears -------------------------------------------------------------------------------------

  /** The subject says who may speak there, and so what can be meant. */
  #hear({ subject, body }: Message): void {
    const from = lastOf(subject);
    const said = from === TOOLS ? providerMessageOf(body, this.home) : reportOf(body, from);
    if (typeof said === 'string') this.#options.dropped.note(subject, said);
    else if (said.t === 'report') this.#report(said);
    else this.#provider(said);
  }

  #report(report: Report): void {
    const here = this.#runs.get(report.execution);
    if (here !== undefined) return here.actor.report(report);
    const { bus, subjects } = this.#options;
    const stop = { t: 'stop', attempt: report.attempt, epoch: 1 };
    publishOrDrop(bus, subjects.runtimeCmd(report.runtime), stop);
  }

  #provider(message: ProviderMessage): void {
    const [, run = ''] = message.key.split('/');
    const here = this.#runs.get(run);
    if (here !== undefined) return here.actor.hear(message);
    const { acks, isClosed } = this.#options;
    if (message.t === 'ended') acks.call(message.provider, message.key, () => !isClosed());
  }

  async #command(body: object): Promise<Reply<unknown>> {
    const asked = attempt(() => commandOf(body, this.#options.subjects));
    if (!asked.ok) return asked;
    const command = asked.value;
    if (command.t !== 'cancel' && command.t !== 'result')
      return failure('INVALID_ARGUMENT', `A run takes no command "${String(command.t)}"`, 0);
    const here = this.#runs.get(command.execution);
    if (command.t === 'result') {
      const result = this.#remembered.get(command.execution)?.result;
      const status = here !== undefined ? 'running' : result === undefined ? 'unknown' : 'ended';
      return success({ status, result } satisfies ResultAnswer, 0);
    }
    if (here !== undefined) return answerCommand(here.actor, command, { broker: this.#options.broker });
    if (this.#remembered.has(command.execution)) return success({ cancelled: false }, 0);
    return failure('NOT_FOUND', `There is no run "${command.execution}"`, 0);
  }
}
