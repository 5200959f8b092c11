/** How a broker places executions on runtimes, as an option: checked, with an error that names what is wrong. */
import type { Labels } from '../actors/placement.ts';
import { LEAST_LOADED, type Routing, type RoutingRule, type RoutingStrategy } from '../actors/routing.ts';
import { isRecord, labelsOf } from './arguments.ts';
import { invalidArgument } from './errors.ts';

export type { RoutingRule, RoutingStrategy } from '../actors/routing.ts';

/** How a broker places executions on runtimes. */
export interface RoutingOptions {
  /**
   * Which of the runtimes that fit gets an execution. Default `'least-loaded'`, because runtimes differ in size and
   * scripts in length: an even share of executions is no even share of work.
   *
   * - `'least-loaded'`: the one that the session ran on last while it has room, for its isolate may be warm there; else
   *   the one with the most room.
   * - `'round-robin'`: the one with room that has waited longest for its turn at this broker, wherever the session ran
   *   last. Every broker counts its own turns.
   * - `'label-match'`: as `'least-loaded'`, among the runtimes whose labels fit the session's by `routingRules`.
   */
  readonly routingStrategy?: RoutingStrategy | undefined;
  /**
   * Of `'label-match'`, and only given with it: 1 to 100 rules. A rule whose `match` labels are all on the session
   * wants all its `target` labels on the runtime. When several match, all of them hold; where two want the same label
   * to differ, the earlier one has its way, so that a last rule with an empty `match` is a default. A session that none
   * matches runs anywhere. A rule's `fallback` labels stand in for its `target` while no runtime is there that has what
   * is wanted (`{}`: any will do); one that is there and full is waited for. Default: no rules; then a runtime must have
   * every label of the session, with the same value.
   *
   * A session that no runtime fits waits, for one may be on its way up, and ends after `placementTimeoutMs` as
   * NO_RUNTIME, with the labels that were wanted and those that there are. Rules hold for placements from now on, also
   * of sessions that were made under others; give all brokers the same.
   */
  readonly routingRules?: readonly RoutingRule[] | undefined;
}

const STRATEGIES: readonly RoutingStrategy[] = ['label-match', 'least-loaded', 'round-robin'];
const RULE_KEYS = ['match', 'target', 'fallback'];
const MAX_RULES = 100;

/** Resolve how a broker places. Throws INVALID_ARGUMENT naming the key, such as `routingRules[1].target.tier`. */
export function resolveRouting(given: { readonly [K in keyof RoutingOptions]: unknown }): Routing {
  const { routingStrategy = LEAST_LOADED.strategy, routingRules: rules } = given;
  const strategy = STRATEGIES.find((known) => known === routingStrategy);
  if (strategy === undefined)
    throw invalidArgument(
      'routingStrategy',
      `must be 'label-match', 'least-loaded' or 'round-robin', not ${String(routingStrategy)}`,
    );
  if (rules === undefined) return { strategy, rules };
  if (strategy !== 'label-match')
    throw invalidArgument(
      'routingRules',
      `are for routingStrategy 'label-match' only, and it is '${strategy}'`,
    );
  if (!Array.isArray(rules)) throw invalidArgument('routingRules', 'must be an array');
  if (rules.length === 0 || rules.length > MAX_RULES)
    throw invalidArgument(
      'routingRules',
      `must be 1 to ${MAX_RULES} rules, not ${rules.length}; leave them out to match all labels of a session`,
    );
  return { strategy, rules: rules.map((rule, index) => ruleOf(rule, `routingRules[${index}]`)) };
}

function ruleOf(rule: unknown, path: string): RoutingRule {
  if (!isRecord(rule)) throw invalidArgument(path, `must be an object with ${RULE_KEYS.join(', ')}`);
  for (const key of Object.keys(rule))
    if (!RULE_KEYS.includes(key))
      throw invalidArgument(`${path}.${key}`, `unknown; a rule has ${RULE_KEYS.join(', ')}`);
  const { fallback } = rule;
  return {
    match: labelsIn(rule, 'match', path),
    target: labelsIn(rule, 'target', path),
    ...(fallback === undefined ? {} : { fallback: labelsOf(fallback, `${path}.fallback`) }),
  };
}

function labelsIn(rule: Readonly<Record<string, unknown>>, key: 'match' | 'target', path: string): Labels {
  if (rule[key] === undefined)
    throw invalidArgument(`${path}.${key}`, 'must be an object of labels; {} for none');
  return labelsOf(rule[key], `${path}.${key}`);
}
