/** What the load did, checked as it comes in: nothing may have failed, been lost or been done twice. */
import type { ErrorCode } from '../../src/index.ts';
import { checkInvariants } from '../chaos/invariants.ts';
import type { Figures } from './figures.ts';
import type { Harm } from './harm.ts';
import type { Members } from './members.ts';
import type { FromLoad, RunEnded, Timed } from './messages.ts';

/** One session in so many is closed and not deleted: it must stay, and no longer than it may. */
const KEPT = 40;
/** More of a kind say nothing new. */
const SHOWN = 10;

export class Ledger {
  readonly complaints: string[] = [];
  executions = 0;
  succeeded = 0;
  sessions = 0;
  deleted = 0;
  runs = 0;
  /** Stateless runs that were lost with a broker that was killed, as they may be. */
  runsLost = 0;
  events = 0;
  takeovers = 0;
  replayed = 0;
  readonly #members: Members;
  readonly #figures: Figures;
  readonly #harm: Harm;
  #finished: { readonly session: string; readonly executed: readonly Timed[] }[] = [];
  #failedRuns: RunEnded[] = [];
  #idle = Promise.withResolvers<void>();
  /** Everything that has ended, of both kinds. */
  ended = 0;

  constructor(members: Members, figures: Figures, harm: Harm) {
    this.#members = members;
    this.#figures = figures;
    this.#harm = harm;
    members.load.hear((message) => this.#hear(message));
  }

  get kept(): number {
    return this.#figures.kept.size;
  }

  /** Resolves when the load has ended everything that it began. */
  get idle(): Promise<void> {
    return this.#idle.promise;
  }

  /** Whether everything was let go that was handed in. */
  get settled(): boolean {
    return this.#finished.length === 0 && this.deleted + this.kept === this.sessions;
  }

  /** Check the sessions that were handed in, and let them go. */
  async check(): Promise<void> {
    const batch = this.#finished.splice(0);
    const executed = batch.flatMap((each) => each.executed);
    this.sessions += batch.length;
    this.executions += executed.length;
    this.succeeded += executed.filter(({ result }) => result.success).length;
    this.replayed += executed.filter(({ result }) => result.stats.attempts > 1).length;
    const mayFail: ErrorCode[] = [];
    for (const { execution, session, result, from, to } of executed)
      if (!result.success) {
        mayFail.push(result.error.code);
        this.#complain(
          'an execution failed',
          `${execution} of ${session}: ${result.error.code} (${result.error.outcome}) ${result.error.message}; ${this.#around(from, to)}`,
        );
      }
    try {
      // What failed was complained of, with what was done meanwhile.
      const report = await checkInvariants(this.#members.cluster, executed, { mayFail });
      this.events += report.events;
      this.takeovers = report.takeovers;
    } catch (error) {
      this.#complain('an invariant does not hold', error instanceof Error ? error.message : String(error));
    }
    for (const [index, { session }] of batch.entries()) {
      const how = (this.sessions - batch.length + index) % KEPT === 0 ? 'close' : 'delete';
      this.#members.load.tell({ t: 'retire', session, how });
    }
  }

  /** Of stateless runs that failed, those are excused that a broker was killed under. */
  checkRuns(): void {
    for (const { error, from, to } of this.#failedRuns.splice(0)) {
      const harmed = this.#harm.during(from, to).some(({ what }) => what === 'broker killed');
      if (harmed) this.runsLost++;
      else this.#complain('a stateless run failed', `${error}; ${this.#around(from, to)}`);
    }
  }

  /** What was done to the cluster at that time. */
  #around(from: number, to: number): string {
    const done = this.#harm
      .during(from, to)
      .map((one) => `${one.what} from ${one.from - from} to ${one.to - from} ms`);
    return `after ${to - from} ms; meanwhile ${done.length === 0 ? 'nothing' : done.join(', ')}`;
  }

  #hear(message: FromLoad): void {
    switch (message.t) {
      case 'executed':
        this.ended++;
        return;
      case 'ran':
        this.ended++;
        this.runs++;
        if (!message.run.ok) this.#failedRuns.push(message.run);
        return;
      case 'finished':
        this.#finished.push(message);
        return;
      case 'retired':
        if (message.how === 'delete') this.deleted++;
        else this.#figures.kept.add(message.session);
        return;
      case 'failed':
        return this.#complain('the load could not go on', message.message);
      case 'idle':
        return this.#idle.resolve();
      case 'ready':
        return;
    }
  }

  #complain(what: string, detail: string): void {
    const same = this.complaints.filter((each) => each.startsWith(what)).length;
    if (same < SHOWN) this.complaints.push(`${what}: ${detail}`);
    else if (same === SHOWN) this.complaints.push(`${what}: and more of the kind`);
  }
}
