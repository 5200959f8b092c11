/**
 * Which runtimes a session may run on: rules that turn its labels into labels that a runtime must have. Data in, data
 * out; the rules are the broker's at the time of a placement and never part of a session, so that changed rules hold
 * from the next placement on, whoever owns the session then.
 *
 * Invariants:
 *  W1  All rules that match a session hold together; where two want one label to be different things, the earlier
 *      rule has its way.
 *  W2  A fallback is taken only while no runtime is there that could run it otherwise: one without room is waited for.
 *      Later rules give way before earlier ones.
 *  W3  Whatever comes out depends on the set of runtimes, not on their order.
 */
import type { Versions } from './attempt.ts';
import { couldRun, type Labels, type RuntimeView } from './placement.ts';

/** How a runtime is chosen among those that fit. */
export type RoutingStrategy = 'label-match' | 'least-loaded' | 'round-robin';

/** Sessions with the labels `match` run on runtimes with the labels `target`. */
export interface RoutingRule {
  /** Labels that the session must all have. None: it matches every session. */
  readonly match: Labels;
  /** Labels that the runtime must all have. None: any will do. */
  readonly target: Labels;
  /** In place of `target` while no runtime has what the rules want. None: any will do. */
  readonly fallback?: Labels | undefined;
}

/** A broker's way of placing. */
export interface Routing {
  readonly strategy: RoutingStrategy;
  /** Of `'label-match'`. Undefined: a runtime must have every label of the session. */
  readonly rules: readonly RoutingRule[] | undefined;
}

export const LEAST_LOADED: Routing = { strategy: 'least-loaded', rules: undefined };

const ANY: readonly Labels[] = [{}];

/** The labels that a runtime must have, and what will do in their place, the best first. Never empty. */
export function wantedLabels({ strategy, rules }: Routing, session: Labels): readonly Labels[] {
  if (strategy !== 'label-match') return ANY;
  if (rules === undefined) return [session];
  const matching = rules.filter(({ match }) => hasLabels(session, match));
  const targets = matching.map(({ target }) => target);
  const wanted = [merged(targets)];
  for (let index = matching.length - 1; index >= 0; index--) {
    const fallback = matching[index]?.fallback;
    if (fallback === undefined) continue;
    targets[index] = fallback; // W2
    wanted.push(merged(targets));
  }
  return wanted;
}

/** Of what is wanted, the first that a runtime which is there could run; undefined if there is none. */
export function bestThere(
  wanted: readonly Labels[],
  runtimes: readonly RuntimeView[],
  versions: Versions | undefined,
): Labels | undefined {
  return wanted.find((labels) => runtimes.some((runtime) => couldRun(runtime, { labels, versions })));
}

/** Whether all that are needed are there. */
export function hasLabels(labels: Labels, needed: Labels): boolean {
  return Object.entries(needed).every(([key, value]) => Object.hasOwn(labels, key) && labels[key] === value);
}

/** W1. Entries, not spreads: "__proto__" is a key like any other. */
function merged(targets: readonly Labels[]): Labels {
  return Object.fromEntries(targets.toReversed().flatMap((target) => Object.entries(target)));
}

// ---- why nobody took it ----------------------------------------------------------------------------------

/** Runtimes that an error shows at most. */
const SHOWN_RUNTIMES = 10;
/** Labels that its message names at most. */
const SHOWN_LABELS = 8;

/** The details of NO_RUNTIME. */
export interface Unplaced {
  /** The labels that a runtime had to have; what would have done in their place is not shown. */
  readonly wanted: Labels;
  /** Runtimes that were known at the end, at most 10. */
  readonly runtimes: readonly {
    readonly id: string;
    readonly labels: Labels;
    readonly free: number;
    readonly draining: boolean;
  }[];
  /** How many were known. */
  readonly known: number;
}

export function unplaced(wanted: Labels, runtimes: readonly RuntimeView[]): Unplaced {
  const shown = runtimes.toSorted((one, other) => (one.id < other.id ? -1 : 1)).slice(0, SHOWN_RUNTIMES); // W3
  return {
    wanted,
    runtimes: shown.map(({ id, labels, free, draining }) => ({ id, labels, free, draining })),
    known: runtimes.length,
  };
}

/** Why none of them took it, for whoever reads the error. */
export function whyUnplaced(wanted: Labels, runtimes: readonly RuntimeView[]): string {
  if (runtimes.length === 0) return 'no runtime was there';
  const pairs = Object.entries(wanted);
  const missing = pairs.filter(
    ([key, value]) => !runtimes.some(({ labels }) => hasLabels(labels, { [key]: value })),
  );
  if (missing.length > 0) return `no runtime has the label ${shown(missing)}`;
  const suiting = runtimes.filter(({ labels }) => hasLabels(labels, wanted));
  if (suiting.length === 0) return `no runtime has all of the labels ${shown(pairs)}`;
  const which = pairs.length === 0 ? '' : ` with ${shown(pairs)}`;
  if (suiting.every(({ draining }) => draining)) return `every runtime${which} was draining`;
  return `no runtime${which} had room for it`;
}

function shown(pairs: readonly (readonly [string, string])[]): string {
  const more = pairs.length > SHOWN_LABELS ? ` and ${pairs.length - SHOWN_LABELS} more` : '';
  return `${pairs
    .slice(0, SHOWN_LABELS)
    .map(([key, value]) => `${key}=${value}`)
    .join(', ')}${more}`;
}
