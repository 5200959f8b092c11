/** What a broker is made of: its parts, put together. What they do is in their files; what they share is here. */
import type { Routing } from '../../actors/routing.ts';
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import { type Losses, UNCOUNTED } from '../losses.ts';
import { type ResolvedAdmission, resolveAdmission } from '../options.ts';
import type { Store } from '../store/store.ts';
import type { Subjects } from '../subjects.ts';
import { Acks } from './acks.ts';
import { Admission } from './admission.ts';
import { type Allowance, allowanceOf } from './allowance.ts';
import { Autoscale, type Autoscaling } from './autoscale.ts';
import { Census } from './census.ts';
import { Creation, type CreationSettings, settingsOf } from './creation.ts';
import { Directory } from './directory.ts';
import type { ToolFacts } from './facts.ts';
import { Dropped } from './heard.ts';
import { Hosting } from './hosting.ts';
import { Lease } from './lease.ts';
import { Leaving } from './leaving.ts';
import type { BrokerNotice, Notify } from './notice.ts';
import { Ownership } from './ownership.ts';
import { Places } from './places.ts';
import { Queries } from './queries.ts';
import { PlacementQueue } from './queue.ts';
import { CODEC } from './release.ts';
import { responder } from './responses.ts';
import { Runs } from './runs.ts';
import { Scan } from './scan.ts';
import type { SnapshotCodec } from './snapshot.ts';
import { ToolDirectory } from './tooldirectory.ts';
import { Verbs } from './verbs.ts';
import { Snapshots } from './versions.ts';

export interface BrokerOptions {
  readonly id: string;
  readonly bus: Bus;
  readonly store: Store;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** The tools of this process, by name as a script wrote it. Others are known when their providers advertise them. */
  readonly tool: (name: string) => ToolFacts | undefined;
  /** True while the bus can be reached: without it the lease is not renewed. Default: always. */
  readonly isReachable?: (() => boolean) | undefined;
  /** Life of its incarnation lease, in ms. Default 6,000; 500 to 600,000. */
  readonly leaseTtlMs?: number | undefined;
  /** A session with nothing to do is put away after this, in ms. Default 30,000; 100 to 86,400,000. */
  readonly hibernateAfterMs?: number | undefined;
  /** How often it looks for sessions that nobody looks after, in ms. Default 1,000. */
  readonly scanMs?: number | undefined;
  /** Sessions with an actor here. Default 100,000. Over it: OVERLOADED. */
  readonly maxSessions?: number | undefined;
  /** Sessions with an actor at all brokers of the namespace, those that ended not counted. 0 or undefined: no limit. Over it: OVERLOADED. */
  readonly maxConcurrentSessions?: number | undefined;
  /** What it grants to those who ask for sessions, executions and runs. Default: the documented defaults and ranges. */
  readonly allowance?: Allowance | undefined;
  /** What it takes on for each tenant. Default: no limits but the default bound of what waits. */
  readonly admission?: ResolvedAdmission | undefined;
  /** Stateless runs here at once. Default 10,000. Over it: OVERLOADED. */
  readonly maxRuns?: number | undefined;
  readonly settings?: CreationSettings | undefined;
  /** How it places executions on runtimes. Default: on the one with the most room. */
  readonly routing?: Routing | undefined;
  /** Keep a pool of runtimes of the right size, while this broker is the one that decides. Whoever made the provisioner closes it. Default: others do. */
  readonly autoscaling?: Autoscaling | undefined;
  /** @internal For tests, which pose as another release. Default: what this release reads and writes. */
  readonly snapshots?: SnapshotCodec | undefined;
  /** Keep what scripts write, pass to tools and return out of all events. Default false: sessions and runs say it themselves. */
  readonly redactEvents?: boolean | undefined;
  /** Tell an `execution.audited` of every execution that ends. Default false. */
  readonly audit?: boolean | undefined;
  /** Told of what is refused or dropped here. Default: nobody counts. */
  readonly losses?: Losses | undefined;
  /** Told of what an operator should know. */
  readonly onNotice?: ((notice: BrokerNotice) => void) | undefined;
}

export const DEFAULTS = {
  leaseTtlMs: 6_000,
  hibernateAfterMs: 30_000,
  scanMs: 1_000,
  maxSessions: 100_000,
  maxRuns: 10_000,
} as const;

/** What the parts ask of the broker that they are of, and tell it. */
export interface Whole {
  /** True while it takes something new. */
  readonly isOpen: () => boolean;
  /** True once it does nothing any more. */
  readonly isClosed: () => boolean;
  /** Its lease was granted, for the first time or again after it was lost. */
  readonly onLeaseHeld: () => void;
}

export type Parts = ReturnType<typeof assemble>;

/** Make the parts. They do nothing before they are started. */
export function assemble(options: BrokerOptions, whole: Whole) {
  const { store, clock, routing, autoscaling, isReachable = () => true } = options;
  const basis = basisOf(options, whole);
  const { broker, notify } = basis;
  const { isOpen } = whole;
  const around = surroundings(options, basis, (runtime) => {
    for (const { actor } of own.hosting.all()) actor.runtimeGone(runtime);
    runs.runtimeGone(runtime);
  });
  const { directory, tools, snapshots } = around;
  const own = sessions(options, whole, basis, around);
  const { hosting } = own;
  const runs: Runs = new Runs({
    ...basis,
    ...around,
    settings: settingsOf(options.settings),
    maxRuns: options.maxRuns ?? DEFAULTS.maxRuns,
    isOpen,
  });
  const hears = (): boolean => isOpen() && isReachable();
  const autoscale =
    autoscaling && new Autoscale({ ...autoscaling, broker, store, clock, directory, isOpen: hears, notify });
  const census = new Census({ hosting, runs, routing, startable: autoscaling?.provisioner.labels });
  const verbs = new Verbs({ ...own, ...basis, store, runs, snapshots, tools, isOpen });
  return { ...around, ...own, runs, autoscale, census, verbs };
}

/** What most of them are made with. */
function basisOf(options: BrokerOptions, { isClosed }: Whole) {
  const { id: broker, bus, clock, subjects } = options;
  const { losses = UNCOUNTED, redactEvents = false, audit = false, allowance = allowanceOf({}) } = options;
  const notify: Notify = (notice) => options.onNotice?.(notice);
  const respond = responder({ isClosed, notify });
  const dropped = new Dropped(clock, notify, losses);
  return {
    broker,
    bus,
    clock,
    subjects,
    losses,
    redactEvents,
    audit,
    notify,
    respond,
    isClosed,
    dropped,
    allowance,
  };
}

type Basis = ReturnType<typeof basisOf>;

/** Who is there, and whose turn it is. */
function surroundings(options: BrokerOptions, basis: Basis, onGone: (runtime: string) => void) {
  const { broker, bus, clock, subjects, notify, losses, dropped } = basis;
  const snapshots = new Snapshots(broker, options.snapshots ?? CODEC);
  const directory = new Directory({
    bus,
    clock,
    subjects,
    routing: options.routing,
    onChange: () => queue.changed(),
    onGone,
    onHeard: (runtime) => notify({ type: 'runtime.heard', runtime }),
    onLeft: (runtime, drained) => notify({ type: 'runtime.gone', runtime, drained }),
    onBroker: (beat) => snapshots.hear(beat),
    dropped,
  });
  const queue: PlacementQueue = new PlacementQueue({
    clock,
    directory,
    weightOf: (tenant) => admission.weightOf(tenant),
  });
  const rules = options.admission ?? resolveAdmission();
  const admission: Admission = new Admission({ clock, rules, waiting: queue, losses });
  const acks = new Acks({ bus, clock, subjects });
  const tools = new ToolDirectory({ bus, clock, subjects, local: options.tool, notify });
  return { snapshots, directory, queue, admission, acks, tools };
}

/** The sessions: how they come here, what is done with them, and how they leave. */
function sessions(
  options: BrokerOptions,
  { isOpen, isClosed, onLeaseHeld }: Whole,
  basis: Basis,
  around: ReturnType<typeof surroundings>,
) {
  const { store, leaseTtlMs = DEFAULTS.leaseTtlMs, maxSessions = DEFAULTS.maxSessions } = options;
  const { broker, bus, clock, subjects, notify, losses } = basis;
  const { directory, snapshots } = around;
  const lease = new Lease({
    store,
    clock,
    broker,
    ttlMs: leaseTtlMs,
    isReachable: options.isReachable,
    onHeld: () => {
      snapshots.restart();
      onLeaseHeld();
    },
    onLost: (incarnation, reason) => {
      if (isClosed()) return;
      notify({ type: 'lease.lost', incarnation, reason });
      hosting.silenceDurable();
    },
  });
  const hosting: Hosting = new Hosting({
    ...basis,
    ...around,
    lease,
    leave: (hosted, body) => leaving.command(hosted, body),
    onSilenced: (actor, owner) => {
      ownership.silenced(actor, owner);
      notify({ type: 'session.fenced', session: actor.id });
    },
  });
  const ownership: Ownership = new Ownership({ ...basis, store, directory, lease, hosting, snapshots });
  const leaving: Leaving = new Leaving({ ...basis, directory, hosting, ownership, isOpen });
  const places = new Places({
    store,
    clock,
    lease,
    most: options.maxConcurrentSessions ?? 0,
    // Longer than a lease: what a living broker has never counts as free.
    ttlMs: leaseTtlMs * 1.5,
    here: hosting,
    losses,
  });
  const creation = new Creation({
    places,
    store,
    clock,
    lease,
    hosting,
    ownership,
    snapshots,
    settings: options.settings,
    maxSessions,
    isOpen,
    losses,
  });
  const queries = new Queries({ broker, bus, store, subjects, hosting, ownership, snapshots });
  const mayOwn = (): boolean => isOpen() && lease.holds();
  const scan = new Scan({ store, clock, hosting, ownership, mayOwn, isOpen, notify });
  return { lease, hosting, ownership, leaving, places, creation, queries, scan };
}
