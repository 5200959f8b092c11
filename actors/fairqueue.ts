/**
 * Start-time fair queueing: what waits, in flows, each of which gets a share of the service by its weight while it
 * has something waiting. (Goyal, Vin, Cheng: "Start-time Fair Queuing", 1996, with one unit of cost for each item.)
 *
 * The queue keeps a virtual time. A flow's next item has a start tag on it; the lowest is served first. Serving an item
 * of a flow of weight w moves that flow's next tag on by 1/w, and the time by 1/W, where W is the weight of all that
 * wait, up to the highest tag that waits: so the time goes on though new flows come all the while, which the plain
 * algorithm would serve before the rest of the old ones for ever.
 *
 * Invariants:
 *  F1  Within a flow items keep the order in which they came.
 *  F2  While two flows wait all the time, what they were served differs, each divided by its weight, by no more than
 *      one item of either.
 *  F3  A flow that comes in has no claim to the time before it came, and none is held against it: its first tag is the
 *      present time, or the end of its own last item if that is later.
 *  F4  Whenever something waits, something is served next; and whatever waits is served in the end, however many flows
 *      come after it.
 *
 * Persistent, as `Fifo` is: every operation returns another queue and leaves the old one whole.
 */
import { drop, EMPTY, type Fifo, filter, peek, push, unshift, values } from './fifo.ts';

interface Flow<T> {
  readonly weight: number;
  /** Of its first item; where nothing of it waits, of the one that would come now. */
  readonly start: number;
  /** Among equal tags the flow whose turn was given out first is served first. */
  readonly turn: number;
  readonly waiting: Fifo<T>;
}

export interface FairQueue<T> {
  readonly size: number;
  /** What a flow that comes in now begins with. */
  readonly time: number;
  readonly turns: number;
  /** By key. One of which nothing waits is kept until the time has come to its tag (F3). */
  readonly flows: Readonly<Record<string, Flow<T>>>;
}

export const EMPTY_FAIR: FairQueue<never> = { size: 0, time: 0, turns: 0, flows: {} };

/** Weights are kept within this, so that no flow waits for ever and none starves the others. */
export const WEIGHTS = { min: 0.001, max: 1_000 } as const;

/** Flows of which nothing waits that are kept; the others begin like new ones, behind all that wait. */
const MAX_IDLE = 128;

/** Add at the end of a flow. The flow's weight is the one that was named last. */
export function enqueue<T>(queue: FairQueue<T>, flow: string, weight: number, item: T): FairQueue<T> {
  const key = keyOf(flow);
  const known = queue.flows[key];
  const fresh = known === undefined || known.waiting.size === 0;
  const next: Flow<T> = {
    weight: within(weight),
    start: fresh ? Math.max(queue.time, known?.start ?? 0) : known.start, // F3
    turn: fresh ? queue.turns : known.turn,
    waiting: push(known?.waiting ?? EMPTY, item),
  };
  return {
    size: queue.size + 1,
    time: queue.time,
    turns: fresh ? queue.turns + 1 : queue.turns,
    flows: { ...queue.flows, [key]: next },
  };
}

/** Put back, as the first of its flow, what was served and came to nothing: the flow has not had it. */
export function putBack<T>(queue: FairQueue<T>, flow: string, weight: number, item: T): FairQueue<T> {
  const key = keyOf(flow);
  const known = queue.flows[key];
  const share = within(weight);
  const next: Flow<T> = {
    weight: share,
    start: Math.max(0, known === undefined ? queue.time : known.start - 1 / share),
    turn: -1, // Before those of the same tag.
    waiting: unshift(known?.waiting ?? EMPTY, item),
  };
  return {
    size: queue.size + 1,
    time: queue.time,
    turns: queue.turns,
    flows: { ...queue.flows, [key]: next },
  };
}

/** What is served next, or undefined if nothing waits (F4). */
export function head<T>(queue: FairQueue<T>): T | undefined {
  const key = keyOfNext(queue);
  return key === undefined ? undefined : peek((queue.flows[key] as Flow<T>).waiting);
}

/** Without what {@link head} showed; its flow pays for it. */
export function serve<T>(queue: FairQueue<T>): FairQueue<T> {
  const key = keyOfNext(queue);
  if (key === undefined) return queue;
  return served(queue, key, drop((queue.flows[key] as Flow<T>).waiting));
}

/**
 * In fair order, the first that fits: where the first of a flow does not, one behind it may. Returns it with the queue
 * without it. Undefined if none does.
 */
export function serveFitting<T>(
  queue: FairQueue<T>,
  fits: (item: T) => boolean,
): readonly [T, FairQueue<T>] | undefined {
  const inOrder = Object.entries(queue.flows)
    .filter(([, { waiting }]) => waiting.size > 0)
    .toSorted(([, one], [, other]) => order(one, other));
  for (const [key, { waiting }] of inOrder) {
    const first = peek(waiting) as T;
    if (fits(first)) return [first, served(queue, key, drop(waiting))];
    const found = values(waiting).find((item) => item !== first && fits(item));
    if (found === undefined) continue;
    const rest = filter(waiting, (item) => item !== found);
    return [found, served(queue, key, rest)];
  }
  return undefined;
}

/** Without the items that do not pass; what is left in a flow keeps its tag. The same queue if all pass. */
export function without<T>(queue: FairQueue<T>, goes: (item: T) => boolean): FairQueue<T> {
  let { size, flows } = queue;
  for (const [key, flow] of Object.entries(queue.flows)) {
    const rest = filter(flow.waiting, (item) => !goes(item));
    if (rest === flow.waiting) continue;
    size -= flow.waiting.size - rest.size;
    flows = { ...flows, [key]: { ...flow, waiting: rest } };
  }
  return size === queue.size ? queue : settled({ ...queue, size, flows });
}

/** Everything that waits, flow by flow. */
export function itemsOf<T>(queue: FairQueue<T>): readonly T[] {
  return Object.values(queue.flows).flatMap(({ waiting }) => values(waiting));
}

/**
 * Who makes room for one more item of a flow where there is none: the last that may go of the flow that has the most
 * waiting for its weight, if that is more than the newcomer's flow would have. Undefined: the newcomer itself.
 */
export function pushedOut<T>(
  queue: FairQueue<T>,
  flow: string,
  weight: number,
  mayGo: (item: T) => boolean,
): T | undefined {
  let most = (waitingOf(queue, flow) + 1) / within(weight);
  let out: T | undefined;
  for (const [key, { waiting, weight: share }] of Object.entries(queue.flows)) {
    if (key === keyOf(flow) || waiting.size / share <= most) continue;
    const last = values(waiting).findLast(mayGo);
    if (last === undefined) continue;
    most = waiting.size / share;
    out = last;
  }
  return out;
}

/** How many items of a flow wait. */
export function waitingOf(queue: FairQueue<unknown>, flow: string): number {
  return queue.flows[keyOf(flow)]?.waiting.size ?? 0;
}

function served<T>(queue: FairQueue<T>, key: string, waiting: Fifo<T>): FairQueue<T> {
  const flow = queue.flows[key] as Flow<T>;
  const next: Flow<T> = { ...flow, start: flow.start + 1 / flow.weight, turn: queue.turns, waiting };
  const flows = { ...queue.flows, [key]: next };
  return settled({
    size: queue.size - 1,
    time: Math.max(queue.time, flow.start, Math.min(queue.time + 1 / weightOfAll(queue), latestOf(flows))),
    turns: queue.turns + 1,
    flows,
  });
}

/** The highest tag of what waits: who comes in begins no later than the last of those who are there. */
function latestOf(flows: FairQueue<unknown>['flows']): number {
  let latest = 0;
  for (const key in flows) {
    const { waiting, start } = flows[key] as Flow<unknown>;
    if (waiting.size > 0 && start > latest) latest = start;
  }
  return latest;
}

function weightOfAll({ flows }: FairQueue<unknown>): number {
  let all = 0;
  for (const key in flows) {
    const { waiting, weight } = flows[key] as Flow<unknown>;
    if (waiting.size > 0) all += weight;
  }
  return all;
}

/** Flows of which nothing waits, and whose tag has passed, are forgotten; all of them once nothing waits at all. */
function settled<T>(queue: FairQueue<T>): FairQueue<T> {
  if (queue.size === 0) return EMPTY_FAIR;
  const { flows, time } = queue;
  let [over, idle] = [false, 0];
  for (const key in flows) {
    const { waiting, start } = flows[key] as Flow<T>;
    if (waiting.size > 0) continue;
    idle++;
    over ||= start <= time;
  }
  if (!over && idle <= MAX_IDLE) return queue;
  const kept = Object.entries(flows).filter(([, { waiting, start }]) => waiting.size > 0 || start > time);
  return { ...queue, flows: Object.fromEntries(idle <= MAX_IDLE ? kept : withFewIdle(kept)) };
}

/** Of those of which nothing waits, the half that would come last. */
function withFewIdle<T>(flows: readonly [string, Flow<T>][]): readonly [string, Flow<T>][] {
  const isIdle = ([, { waiting }]: readonly [string, Flow<T>]): boolean => waiting.size === 0;
  const idle = flows.filter(isIdle).toSorted(([, one], [, other]) => other.start - one.start);
  return [...flows.filter((flow) => !isIdle(flow)), ...idle.slice(0, MAX_IDLE / 2)];
}

function keyOfNext<T>({ flows }: FairQueue<T>): string | undefined {
  let next: string | undefined;
  let best: Flow<T> | undefined;
  for (const key in flows) {
    const flow = flows[key] as Flow<T>;
    if (flow.waiting.size === 0 || (best !== undefined && order(best, flow) <= 0)) continue;
    next = key;
    best = flow;
  }
  return next;
}

function order(one: Flow<unknown>, other: Flow<unknown>): number {
  return one.start - other.start || one.turn - other.turn;
}

function within(weight: number): number {
  return Math.min(WEIGHTS.max, Math.max(WEIGHTS.min, weight));
}

/** Prefixed, so that no flow is called `__proto__`. */
function keyOf(flow: string): string {
  return `f:${flow}`;
}
