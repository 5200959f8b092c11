/**
 * One run: a world of processes made from a seed, a phase in which things go wrong, and a calm one in which
 * everything that was accepted must end.
 */

import { CODEC } from '../../src/session/release.ts';
import type { SnapshotCodec } from '../../src/session/snapshot.ts';
import { MemoryStore } from '../../src/store/memory.ts';
import { type Subjects, subjectsOf } from '../../src/subjects.ts';
import { Checker } from './checker.ts';
import { Clients } from './clients.ts';
import type { Defect } from './defects.ts';
import { Faults } from './faults.ts';
import { Ledger } from './ledger.ts';
import { Network } from './network.ts';
import { type Kind, Process } from './process.ts';
import { Random } from './random.ts';
import { AHEAD } from './releases.ts';
import { play, type Role, type Stage } from './roles.ts';
import { Scheduler } from './scheduler.ts';
import { drawSettings, type Settings } from './settings.ts';
import { TOOL_NAMES, ToolWorld } from './tools.ts';
import { Trace } from './trace.ts';
import { Violation } from './violation.ts';

/** A process, and its part. */
interface Played extends Role {
  readonly process: Process;
}

/** Everything must have ended this long after things stopped going wrong, in virtual ms. */
const CALM_MS = 120_000;
/** How long those who are on their way out may take in the calm phase, in ms. */
const LEAVE_MS = 5_000;
/** Worlds in which brokers of a later release come and go among those of this one, in parts of one. */
const MIXED = 0.25;
/** Brokers that are of the later release there, in parts of one. */
const NEWER = 0.7;
/** How long readers get for their last events, in ms. */
const READ_MS = 12_000;

export class World {
  readonly trace = new Trace();
  readonly scheduler: Scheduler;
  readonly faults: Faults;
  readonly clients: Clients;
  violation: Error | undefined;
  readonly #random: Random;
  readonly #seed: number;
  readonly #settings: Settings;
  /** What was committed so far. */
  readonly ledger = new Ledger();
  readonly #network: Network;
  readonly #tools: ToolWorld;
  readonly #checker: Checker;
  readonly #stage: Stage;
  readonly #subjects: Subjects = subjectsOf('sim');
  readonly #processes: Played[] = [];
  readonly #releases: Random;
  readonly #mixed: boolean;
  /** Brokers of the later release. */
  readonly #newer = new Set<Process>();
  readonly #lostAlone = new Map<string, number>();
  #dying: (() => void)[] = [];
  #calm = false;
  #made = 0;

  constructor(seed: number, defect: Defect = {}) {
    this.#seed = seed;
    this.#random = Random.of(seed, 'world');
    this.#releases = Random.of(seed, 'releases');
    this.#mixed = this.#releases.chance(MIXED);
    this.scheduler = new Scheduler(Random.of(seed, 'scheduler'));
    this.#settings = drawSettings(Random.of(seed, 'settings'));
    this.faults = new Faults(Random.of(seed, 'faults'));
    const report = (error: unknown): void => this.fail(error);
    const note = (who: string, what: string): void => this.trace.add(this.scheduler.now, who, what);
    this.#network = new Network({
      scheduler: this.scheduler,
      random: Random.of(seed, 'network'),
      faults: this.faults,
      onSend: (process, _kind, subject, body) =>
        this.#guard(() => this.#checker.sent(process, subject, body)),
      note,
      onError: report,
    });
    const now = (): number => this.scheduler.now;
    this.#tools = new ToolWorld({
      random: Random.of(seed, 'tools'),
      now,
      note,
      onStart: (key, start) => {
        note(start.process.id, `runs ${start.tool} ${key} of epoch ${start.epoch}`);
        this.#guard(() => this.#checker.started(key, start));
      },
    });
    const cancelled = new Set<string>();
    const closed = new Set<string>();
    this.#checker = new Checker({
      ledger: this.ledger,
      tools: this.#tools,
      now,
      disturbedSince: (at) => this.#network.disturbedSince(at),
      lostAlone: this.#lostAlone,
      cancelled,
      closed,
    });
    this.ledger.onEnded = (execution, session) => this.#checker.ended(execution, session);
    this.clients = new Clients({
      random: Random.of(seed, 'clients'),
      ledger: this.ledger,
      checker: this.#checker,
      plans: this.#settings.plans,
      style: { tools: TOOL_NAMES, crashes: 0.02, longSleepMs: 5_000 },
      subjects: this.#subjects,
      brokers: () =>
        this.#processes.filter(({ process }) => process.kind === 'broker').map(({ process }) => process.id),
      cancelled,
      closed,
      note,
      report,
    });
    const store = new MemoryStore({
      clock: { now, monotonic: now, after: () => () => undefined, soon: queueMicrotask, id: () => '' },
      maxEvents: this.#settings.maxEvents,
    });
    this.#stage = {
      seed,
      settings: this.#settings,
      defect,
      scheduler: this.scheduler,
      faults: this.faults,
      ledger: this.ledger,
      tools: this.#tools,
      clients: this.clients,
      backend: defect.backend?.(store) ?? store,
      subjects: this.#subjects,
      note,
      fail: report,
      dieAfterStep: (process, why) => this.#dieAfterStep(process, why),
      onLost: (attempt, alone) => {
        if (alone) this.#lostAlone.set(attempt, 1);
      },
      snapshotsOf: (broker) => this.#snapshotsOf(broker),
    };
  }

  /** The first violation stands. */
  fail(error: unknown): void {
    if (this.violation !== undefined) return;
    this.violation =
      error instanceof Violation
        ? error
        : new Violation(
            'I5',
            `something failed that nobody handles: ${error instanceof Error ? error.stack : String(error)}`,
          );
  }

  /** So many steps in which things go wrong, then the calm. */
  async run(steps: number): Promise<void> {
    const { brokers, runtimes, providers, clients } = this.#settings;
    for (const [kind, count] of Object.entries({
      provider: providers,
      broker: brokers,
      runtime: runtimes,
      client: clients,
    }))
      for (let made = 0; made < count; made++) this.#make(kind as Kind);
    for (let step = 0; step < steps && this.violation === undefined; step++) {
      if (this.#random.chance(this.#settings.act)) this.clients.act();
      this.#harm();
      await this.#step();
    }
    this.#calmDown();
    const began = this.scheduler.now;
    await this.#until(() => this.#isDone(), began + CALM_MS);
    if (this.violation === undefined && !this.#isDone())
      this.fail(
        new Violation(
          'I5',
          `${CALM_MS} ms after everything was healed this has not ended: ${this.#open().join(' ')}`,
        ),
      );
    const complete = this.#seed % 4 === 0;
    if (complete) await this.#until(() => false, this.scheduler.now + READ_MS);
    this.#guard(() => {
      this.#checker.finish();
      this.clients.finish(complete);
    });
  }

  // ---- time ----------------------------------------------------------------------------------------------

  async #step(): Promise<void> {
    try {
      this.scheduler.step();
    } catch (error) {
      this.fail(error);
    }
    await new Promise(setImmediate);
    if (this.#dying.length > 0) for (const die of this.#dying.splice(0)) die();
  }

  async #until(done: () => boolean, limit: number): Promise<void> {
    while (this.violation === undefined && this.scheduler.now < limit && !done()) await this.#step();
  }

  #isDone(): boolean {
    return this.#open().length === 0 && this.clients.settled;
  }

  #open(): readonly string[] {
    const open: string[] = [...this.clients.openCommands];
    for (const { id, executions } of this.ledger.sessions.values()) {
      for (const execution of executions.values()) if (!execution.ended) open.push(`${id}/${execution.id}`);
    }
    return open;
  }

  #guard(check: () => void): void {
    try {
      check();
    } catch (error) {
      this.fail(error);
    }
  }

  // ---- harm ----------------------------------------------------------------------------------------------

  #harm(): void {
    const { faults, scheduler } = this;
    const random = this.#random;
    for (const [fault, kind] of CRASHES) if (faults.happens(fault)) this.#crash(this.#any(kind), 'is killed');
    if (faults.happens('storeOutage')) {
      faults.beginOutage(scheduler.now);
      this.trace.add(scheduler.now, 'store', 'is away');
    }
    if (faults.happens('pause')) this.#pause(this.#any(random.pick(KINDS)), random.between(10, 5_000));
    if (faults.happens('partition')) {
      const victim = this.#any(random.pick(KINDS));
      if (victim !== undefined) {
        const ms = random.between(50, 3_000);
        this.trace.add(scheduler.now, victim.process.id, `is cut off for ${ms} ms`);
        this.#network.cut(victim.process, ms);
      }
    }
    if (faults.happens('drain')) this.#drain(this.#any(random.pick(LEAVING)));
  }

  #any(kind: Kind): Played | undefined {
    const found = this.#processes.filter(({ process }) => process.kind === kind && process.alive);
    return found.length === 0 ? undefined : this.#random.pick(found);
  }

  #pause(victim: Played | undefined, ms: number): void {
    if (victim === undefined || victim.process.paused) return;
    const { process } = victim;
    this.trace.add(this.scheduler.now, process.id, `stands still for ${ms} ms`);
    process.pause();
    this.scheduler.after(ms, undefined, () => {
      if (!process.alive || !process.paused) return;
      this.trace.add(this.scheduler.now, process.id, 'goes on');
      process.resume();
    });
  }

  #drain(victim: Played | undefined): void {
    if (victim === undefined || victim.process.draining || victim.process.paused) return;
    const { process } = victim;
    this.trace.add(this.scheduler.now, process.id, 'drains');
    process.draining = true;
    void victim.leave().then(
      () => this.#dying.push(() => this.#crash(victim, 'has left')),
      (error: unknown) => this.fail(error),
    );
  }

  #crash(victim: Played | undefined, why: string): void {
    if (victim === undefined || !victim.process.alive) return;
    const { process, abandon } = victim;
    this.trace.add(this.scheduler.now, process.id, why);
    process.die();
    abandon();
    this.#processes.splice(this.#processes.indexOf(victim), 1);
    const ms = this.#calm ? 0 : this.#random.between(10, 2_000);
    this.scheduler.after(ms, undefined, () => this.#make(process.kind));
  }

  #calmDown(): void {
    this.trace.add(this.scheduler.now, 'world', 'calms down');
    this.#calm = true;
    this.faults.end();
    this.#network.heal();
    for (const { process } of this.#processes) process.resume();
    this.scheduler.after(LEAVE_MS, undefined, () => {
      for (const victim of this.#processes.filter(({ process }) => process.draining))
        this.#crash(victim, 'is killed, having had its time');
    });
  }

  // ---- processes -----------------------------------------------------------------------------------------

  #make(kind: Kind): void {
    const id = `${kind[0]}${++this.#made}`;
    const { slowSoon, skewMs } = this.#settings;
    const process = new Process({
      id,
      kind,
      scheduler: this.scheduler,
      random: Random.of(this.#seed, id),
      slowSoon,
      skewMs: skewMs === 0 ? 0 : this.#random.between(-skewMs, skewMs),
    });
    this.trace.add(this.scheduler.now, id, 'starts');
    const bus = this.#network.connect(process);
    const role = play(this.#stage, process, bus);
    this.#processes.push({ process, ...role });
  }

  /** In a mixed world one broker is always of the later release: what it wrote can be read by somebody. */
  #snapshotsOf(broker: Process): SnapshotCodec {
    if (!this.#mixed) return CODEC;
    const stays = this.#processes.some(
      ({ process }) => process.alive && !process.draining && this.#newer.has(process),
    );
    if (stays && !this.#releases.chance(NEWER)) return CODEC;
    this.#newer.add(broker);
    this.trace.add(this.scheduler.now, broker.id, 'is two releases ahead');
    return AHEAD;
  }

  #dieAfterStep(process: Process, why: string): void {
    this.#dying.push(() =>
      this.#crash(
        this.#processes.find((other) => other.process === process),
        `dies ${why}`,
      ),
    );
  }
}

const KINDS: readonly Kind[] = ['broker', 'broker', 'runtime', 'provider', 'client'];
const LEAVING: readonly Kind[] = ['broker', 'broker', 'runtime', 'provider'];
const CRASHES = [
  ['crashBroker', 'broker'],
  ['crashRuntime', 'runtime'],
  ['crashProvider', 'provider'],
  ['crashClient', 'client'],
] as const;
