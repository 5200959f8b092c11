/**
 * What a broker takes on for each tenant: how much at once, how much a second, and how much of it may wait for room in
 * a runtime. What is refused here cost little and did not start.
 *
 * Invariants:
 *  D1  A command is charged once: one that is here already, or that its session remembers, is not charged again, and
 *      what was refused is not charged at all.
 *  D2  What is counted against a tenant is what is here: from its admission, or the arrival of its session, to its end,
 *      or to the departure of its session.
 *  D3  Fewer than `maxWaiting` wait when one is admitted, and no tenant may have more waiting than are still free,
 *      times its weight: however many flood, there is room for another.
 *  D4  Whoever is refused is told to come back after those who were refused before: if all came at the next chance, all
 *      but one of them would be refused again, and a flood would grow with every try.
 *  D5  Work that was accepted is never refused: what comes with a session is counted and may pass a limit.
 */
import type { Clock } from '../clock.ts';
import type { Losses } from '../losses.ts';
import type { ResolvedAdmission, ResolvedTenant } from '../options.ts';
import { Bucket } from './bucket.ts';

/** A retry is asked for after this many ms at least and at most. */
const RETRY_MS = { min: 10, max: 60_000 };
/** How much the last execution counts in the mean of how long they are here. */
const SMOOTHING = 1 / 16;

/** What was passed, and what the one who was refused should know. */
export interface Refused {
  readonly limit: 'rate' | 'concurrency' | 'queue';
  readonly message: string;
  /** When there is likely to be room, in ms. */
  readonly retryAfterMs: number;
  /** Its place, counted from 1, among those of the tenant that were refused and are expected back. */
  readonly position: number;
}

export interface AdmissionOptions {
  readonly clock: Pick<Clock, 'monotonic'>;
  readonly rules: ResolvedAdmission;
  /** What waits for room now: in all, and of a tenant; and how long it takes until the next of a tenant's gets some, in ms. */
  readonly waiting: {
    readonly size: number;
    of(tenant: string): number;
    turnMs(tenant: string): number;
  };
  readonly losses: Pick<Losses, 'overloaded'>;
}

interface Tenant {
  readonly rules: ResolvedTenant;
  readonly bucket: Bucket | undefined;
  /** What is here, and since when. */
  readonly here: Map<string, number>;
  /** Admitted, and not taken in by its session yet. */
  readonly arriving: Set<string>;
  /** How long its executions are here, smoothed, in ms. */
  meanMs: number;
  /** Those that were refused and are expected back, and when that was reckoned. */
  line: number;
  linedAt: number;
}

/** What is wrong, and how often there is room for one more. */
interface Limit extends Pick<Refused, 'limit' | 'message'> {
  /** Until there is likely to be room, in ms. */
  readonly firstMs: number;
  /** And until there is again, in ms. */
  readonly nextMs: number;
}

export class Admission {
  readonly #options: AdmissionOptions;
  readonly #tenants = new Map<string, Tenant>();
  #arriving = 0;

  constructor(options: AdmissionOptions) {
    this.#options = options;
  }

  /** How large a tenant's share is beside others'. */
  weightOf(tenant: string): number {
    return this.#rulesOf(tenant).weight;
  }

  /** Executions of a tenant that are here. */
  hereOf(tenant: string): number {
    return this.#tenants.get(tenant)?.here.size ?? 0;
  }

  /** Tenants that are remembered. */
  get size(): number {
    return this.#tenants.size;
  }

  /**
   * May it come in? `key` names it in this broker. 'known': it is here already (D1). 'admitted': {@link hold} follows
   * when it was taken in, or {@link free} if it was not.
   */
  admit(tenant: string, key: string): 'known' | 'admitted' | Refused {
    const entry = this.#entry(tenant);
    if (entry.here.has(key)) return 'known';
    const over = this.#overWaiting(tenant, entry) ?? overConcurrency(entry) ?? overRate(entry);
    if (over !== undefined) {
      this.#options.losses.overloaded(over.limit === 'queue' ? 'waiting' : 'tenant');
      return this.#refuse(entry, over);
    }
    entry.here.set(key, this.#options.clock.monotonic());
    entry.arriving.add(key);
    this.#arriving++;
    return 'admitted';
  }

  /** It is here (D5). */
  hold(tenant: string, key: string): void {
    const entry = this.#entry(tenant);
    this.#arrived(entry, key);
    if (!entry.here.has(key)) entry.here.set(key, this.#options.clock.monotonic());
  }

  /** It is not here any more, or never came in. `ended`: it has run its course, so how long that took counts. */
  free(tenant: string, key: string, ended = false): void {
    const entry = this.#tenants.get(tenant);
    const since = entry?.here.get(key);
    if (entry === undefined || since === undefined) return;
    this.#arrived(entry, key);
    entry.here.delete(key);
    if (ended) entry.meanMs += (this.#options.clock.monotonic() - since - entry.meanMs) * SMOOTHING;
  }

  /** Forget tenants of whom there is nothing to know. */
  sweep(): void {
    for (const [tenant, { here, bucket }] of this.#tenants)
      if (here.size === 0 && bucket?.full !== false) this.#tenants.delete(tenant);
  }

  #arrived(entry: Tenant, key: string): void {
    if (entry.arriving.delete(key)) this.#arriving--;
  }

  #rulesOf(tenant: string): ResolvedTenant {
    const { tenants, others } = this.#options.rules;
    return tenants.get(tenant) ?? others;
  }

  #entry(tenant: string): Tenant {
    let entry = this.#tenants.get(tenant);
    if (entry === undefined) {
      const rules = this.#rulesOf(tenant);
      const { ratePerSecond, burst } = rules;
      const bucket =
        ratePerSecond === undefined ? undefined : new Bucket(this.#options.clock, ratePerSecond, burst);
      const here = new Map<string, number>();
      entry = { rules, bucket, here, arriving: new Set(), meanMs: 0, line: 0, linedAt: 0 };
      this.#tenants.set(tenant, entry);
    }
    return entry;
  }

  /** D4. The line gets shorter by itself, at the pace at which there is room. */
  #refuse(entry: Tenant, { limit, message, firstMs, nextMs }: Limit): Refused {
    const now = this.#options.clock.monotonic();
    const gone = nextMs > 0 ? (now - entry.linedAt) / nextMs : entry.line;
    entry.line = Math.max(0, entry.line - gone);
    entry.linedAt = now;
    const retryAfterMs = Math.ceil(
      Math.min(RETRY_MS.max, Math.max(RETRY_MS.min, firstMs + entry.line * nextMs)),
    );
    // Nobody is told to wait longer, so nobody stands further back.
    if (retryAfterMs < RETRY_MS.max) entry.line++;
    return { limit, message, retryAfterMs, position: Math.max(1, Math.ceil(entry.line)) };
  }

  /** D3 */
  #overWaiting(tenant: string, { rules, arriving }: Tenant): Limit | undefined {
    const { waiting, rules: all } = this.#options;
    const left = all.maxWaiting - waiting.size - this.#arriving;
    const own = waiting.of(tenant) + arriving.size;
    if (left > 0 && own < left * rules.weight) return undefined;
    const turnMs = waiting.turnMs(tenant);
    return {
      limit: 'queue',
      message: `Too many executions wait for room in a runtime: ${own} of this tenant, of ${all.maxWaiting} that may`,
      firstMs: turnMs,
      nextMs: turnMs,
    };
  }
}

function overConcurrency({ rules: { maxConcurrent }, here, meanMs }: Tenant): Limit | undefined {
  if (maxConcurrent === undefined || here.size < maxConcurrent) return undefined;
  // Of so many that are under way at any time, one ends.
  const nextMs = meanMs / here.size;
  return {
    limit: 'concurrency',
    message: `The tenant has ${here.size} executions here, and may have ${maxConcurrent}`,
    firstMs: nextMs,
    nextMs,
  };
}

/** Last, because it charges. */
function overRate({ rules: { ratePerSecond = 0 }, bucket }: Tenant): Limit | undefined {
  const waitMs = bucket?.take() ?? 0;
  if (waitMs === 0) return undefined;
  return {
    limit: 'rate',
    message: `The tenant may begin ${ratePerSecond} executions a second here`,
    firstMs: waitMs,
    nextMs: 1_000 / ratePerSecond,
  };
}
