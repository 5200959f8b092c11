/**
 * The tools of the namespace, as their providers advertise them, and whether a script may call one.
 *
 * Invariants:
 *  D1  Where providers disagree about a tool's effect, the strictest word counts: a call that anybody calls unsafe is
 *      never repeated.
 *  D2  A tool without a provider stays known for {@link REMEMBER_MS}: its calls wait for one, and do not fail as calls
 *      of a tool that there is not.
 *  D3  That there is no such tool is said after every provider was asked, and had {@link SEEK_MS} to show itself, or,
 *      once all that live have certainly been heard of, {@link QUIET_MS} after the last of them answered.
 */
import { type Bus, BusError, isSettled, type Subscription } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { AdvertisedTool, KnownTool, ListTools, Reply, ToolList, ToolPage } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { canonicalToolName } from '../tools/define.ts';
import { heartbeatOf, MAX_TOOLS, toolPageOf } from './adverts.ts';
import { MISSED_BEATS } from './directory.ts';
import type { SessionTools, ToolFacts } from './facts.ts';
import type { Notify } from './notice.ts';

/** How long a tool is known that nobody offers any more, in ms, and how many such tools are. */
const REMEMBER_MS = 600_000;
const MAX_REMEMBERED = 10_000;
/** How long providers have to show themselves when a tool is looked for, in ms. */
const SEEK_MS = 300;
/** The same, for those that nobody has heard of, once all others have answered, in ms. */
const QUIET_MS = 50;
/** After this long here, in ms, every provider that lives has been heard of: two beats and a little. */
const SETTLED_MS = 2_500;
/** After this long here, in ms, whoever provides tools and is not slow has answered the question of the start. */
const HEARD_MS = 1_000;
/** A name that nobody knew is not asked for again so soon, in ms: who comes later shows himself. */
const ASKED_MS = 10_000;
const MAX_ASKED = 10_000;
/** Questions at once; over it a name is unknown without one. */
const MAX_SEEKING = 100;
const MAX_PROVIDERS = 10_000;
/** Longest wait for a page of a provider's list, in ms. */
const PAGE_MS = 1_000;
/** Longest answer to `tools_list`, in bytes of JSON. */
const LIST_BYTES = 256 * 1024;

const STRICTNESS = { read: 0, idempotent: 1, unsafe: 2 } as const;

interface Provider {
  /** Of the list that is known here. */
  hash: string;
  tools: readonly AdvertisedTool[];
  draining: boolean;
  intervalMs: number;
  heardAt: number;
  fetching: boolean;
}

interface Entry {
  /** What is known of it, from all who offer it, or offered it last. */
  tool: AdvertisedTool;
  readonly offers: Map<string, AdvertisedTool>;
  /** Effects that were reported to contradict each other. */
  conflict: string;
}

interface Seeker {
  readonly names: readonly string[];
  readonly since: number;
  readonly done: () => void;
  /** All have answered that were known. */
  quiet: boolean;
}

export interface ToolDirectoryOptions {
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  /** The tools of this process, which are known before they are advertised. */
  readonly local: (name: string) => ToolFacts | undefined;
  readonly notify: Notify;
}

export class ToolDirectory {
  readonly #options: ToolDirectoryOptions;
  readonly #providers = new Map<string, Provider>();
  readonly #tools = new Map<string, Entry>();
  /** Tools that nobody offers, since when, the oldest first. */
  readonly #gone = new Map<string, number>();
  /** Names that nobody knew when they were asked for, and when that was, the oldest first. */
  readonly #asked = new Map<string, number>();
  readonly #seekers = new Set<Seeker>();
  #subscription: Subscription | undefined;
  #startedAt = 0;

  constructor(options: ToolDirectoryOptions) {
    this.#options = options;
  }

  /** Listen, and ask every provider to show itself. Nobody waits for the answers: see D3. */
  start(): void {
    const { bus, clock, subjects } = this.#options;
    this.#startedAt = clock.monotonic();
    const heartbeats = subjects.providerHeartbeat('*');
    this.#subscription = bus.subscribe(heartbeats, ({ subject, body }) => this.#hear(subject, body));
    // Without it their next beats tell.
    publishOrDrop(bus, subjects.providerProbe, { t: 'advertise' });
  }

  stop(): void {
    this.#subscription?.unsubscribe();
    this.#subscription = undefined;
    for (const { done } of [...this.#seekers]) done();
  }

  // ---- what is known -------------------------------------------------------------------------------------

  /** What is known of a tool, by either spelling of its name. */
  find(name: string): ToolFacts | undefined {
    const canonicalName = canonicalToolName(name);
    if (canonicalName === undefined) return undefined;
    const known = this.#tools.get(canonicalName)?.tool;
    const local = this.#options.local(name);
    if (known === undefined || local === undefined) return known ?? local;
    const { effect } = strictest([known, local]);
    return { canonicalName, effect, reconcilable: known.reconcilable || local.reconcilable };
  }

  /** The tools of a session: all, or those of a list of canonical names, known or not. */
  allowing(names: readonly string[] | undefined): SessionTools {
    const allowed = names === undefined ? undefined : new Set(names);
    return {
      find: (name) => {
        const canonicalName = canonicalToolName(name);
        if (canonicalName === undefined) return 'UNKNOWN_TOOL';
        if (allowed?.has(canonicalName) === false) return 'TOOL_NOT_ALLOWED';
        return this.find(name) ?? 'UNKNOWN_TOOL';
      },
      seek: (wanted) => this.#seek(wanted.filter((name) => isAmong(allowed, name))),
      providers: () => this.#all(),
    };
  }

  #all(): readonly string[] | undefined {
    const { bus, clock } = this.#options;
    const isHeard = clock.monotonic() - this.#startedAt >= HEARD_MS && isSettled(bus);
    return isHeard && this.#providers.size < MAX_PROVIDERS ? [...this.#providers.keys()] : undefined;
  }

  /** The tools that providers advertise, or did lately. */
  list({ after = '' }: ListTools): ToolList {
    const pageBytes = Math.min(LIST_BYTES, Math.floor(this.#options.bus.maxPayloadBytes / 2));
    const names = [...this.#tools.keys()].filter((name) => name > after).toSorted();
    const tools: KnownTool[] = [];
    let bytes = 0;
    for (const name of names) {
      const entry = this.#tools.get(name);
      if (entry === undefined) continue;
      const tool: KnownTool = { ...entry.tool, providers: entry.offers.size };
      bytes += Buffer.byteLength(JSON.stringify(tool)) + 1;
      if (bytes > pageBytes && tools.length > 0) return { tools, after: tools.at(-1)?.canonicalName };
      tools.push(tool);
    }
    return { tools, after: undefined };
  }

  // ---- what is looked for --------------------------------------------------------------------------------

  /**
   * Look for the tools of these names that are not known. Resolves when they are, or when it is clear that nobody
   * offers them (D3); undefined if nothing is to be looked for.
   */
  #seek(wanted: readonly string[]): Promise<void> | undefined {
    const { clock } = this.#options;
    const since = clock.monotonic() - ASKED_MS;
    const names = wanted
      .filter((name) => this.find(name) === undefined)
      .map(canonicalToolName)
      .filter((name) => name !== undefined)
      .filter((name) => (this.#asked.get(name) ?? Number.NEGATIVE_INFINITY) < since);
    if (names.length === 0 || this.#seekers.size >= MAX_SEEKING || this.#subscription === undefined)
      return undefined;
    return new Promise((resolve) => {
      const seeker: Seeker = {
        names,
        since: clock.monotonic(),
        quiet: false,
        done: () => {
          if (!this.#seekers.delete(seeker)) return;
          cancel();
          this.#noteAsked(names);
          resolve();
        },
      };
      const cancel = clock.after(SEEK_MS, seeker.done);
      this.#seekers.add(seeker);
      void this.#ask(seeker);
    });
  }

  async #ask({ done }: Seeker): Promise<void> {
    const { bus, subjects } = this.#options;
    try {
      await bus.request(subjects.providerProbe, { t: 'advertise' }, { timeoutMs: SEEK_MS });
    } catch (error) {
      if (error instanceof BusError && error.code === 'NO_RESPONDERS') done();
    }
  }

  /** D3: who has been heard of has answered. */
  #noteAnswers(): void {
    const { clock } = this.#options;
    if (this.#seekers.size === 0 || clock.monotonic() - this.#startedAt < SETTLED_MS) return;
    const providers = [...this.#providers.values()];
    if (providers.some(({ fetching }) => fetching)) return;
    const oldest = Math.min(...providers.map(({ heardAt }) => heardAt));
    for (const seeker of this.#seekers) {
      if (seeker.quiet || oldest < seeker.since) continue;
      seeker.quiet = true;
      clock.after(QUIET_MS, seeker.done);
    }
  }

  #noteAsked(names: readonly string[]): void {
    for (const name of names) {
      this.#asked.delete(name);
      if (!this.#tools.has(name)) this.#asked.set(name, this.#options.clock.monotonic());
    }
    trim(this.#asked, MAX_ASKED);
  }

  // ---- what providers tell -------------------------------------------------------------------------------

  #hear(subject: string, body: object): void {
    const beat = heartbeatOf(body);
    const id = subject.split('.').at(-2);
    // A server may see to it that nobody publishes in another's name; what is said within is held against that.
    if (id === undefined || beat?.provider !== id) return;
    const provider = this.#providers.get(id) ?? this.#meet(id);
    if (provider === undefined) return;
    provider.heardAt = this.#options.clock.monotonic();
    provider.intervalMs = beat.intervalMs;
    if (provider.draining !== beat.draining) {
      provider.draining = beat.draining;
      this.#offer(id, provider, provider.tools);
    }
    if (provider.hash !== beat.hash && !provider.fetching && !beat.draining) void this.#fetch(id, provider);
    this.#noteAnswers();
  }

  #meet(id: string): Provider | undefined {
    if (this.#providers.size >= MAX_PROVIDERS) return undefined;
    const provider: Provider = {
      hash: '',
      tools: [],
      draining: false,
      intervalMs: 0,
      heardAt: 0,
      fetching: false,
    };
    this.#providers.set(id, provider);
    return provider;
  }

  /** Ask a provider for its list. What goes wrong is tried again at its next beat. */
  async #fetch(id: string, provider: Provider): Promise<void> {
    provider.fetching = true;
    const tools: AdvertisedTool[] = [];
    let hash: string | undefined;
    let page = 0;
    let pages = 1;
    for (; page < pages && tools.length < MAX_TOOLS; page++) {
      const part = await this.#page(id, page);
      if (part === undefined || (hash !== undefined && part.hash !== hash)) break;
      ({ hash, pages } = part);
      tools.push(...part.tools);
    }
    provider.fetching = false;
    this.#noteAnswers();
    const isWhole = page >= pages || tools.length >= MAX_TOOLS;
    if (hash === undefined || !isWhole || this.#providers.get(id) !== provider) return;
    provider.hash = hash;
    this.#offer(id, provider, tools.slice(0, MAX_TOOLS));
    for (const { names, done } of [...this.#seekers])
      if (names.every((name) => this.#tools.has(name))) done();
  }

  async #page(id: string, page: number): Promise<ToolPage | undefined> {
    const { bus, subjects } = this.#options;
    try {
      const body = { t: 'tools', page };
      const reply = await bus.request(subjects.providerCmd(id), body, { timeoutMs: PAGE_MS });
      const { ok, value } = reply as Partial<Extract<Reply<unknown>, { ok: true }>>;
      return ok === true ? toolPageOf(value) : undefined;
    } catch (error) {
      if (!(error instanceof BusError)) throw error;
      return undefined;
    }
  }

  /** Put what a provider offers in the place of what it offered. One that drains offers nothing. */
  #offer(id: string, provider: Provider, tools: readonly AdvertisedTool[]): void {
    const before = provider.tools;
    provider.tools = tools;
    const offered = provider.draining ? [] : tools;
    const touched = new Set([...before, ...offered].map(({ canonicalName }) => canonicalName));
    for (const { canonicalName } of before) this.#tools.get(canonicalName)?.offers.delete(id);
    for (const tool of offered) {
      const entry = this.#tools.get(tool.canonicalName);
      if (entry !== undefined) entry.offers.set(id, tool);
      else this.#tools.set(tool.canonicalName, { tool, offers: new Map([[id, tool]]), conflict: '' });
    }
    for (const name of touched) this.#settle(name);
  }

  /** D1, D2: what is known of a tool now. */
  #settle(canonicalName: string): void {
    const entry = this.#tools.get(canonicalName);
    if (entry === undefined) return;
    if (entry.offers.size === 0) {
      if (!this.#gone.has(canonicalName)) this.#gone.set(canonicalName, this.#options.clock.monotonic());
      for (const name of trim(this.#gone, MAX_REMEMBERED)) this.#tools.delete(name);
      return;
    }
    this.#gone.delete(canonicalName);
    const offers = [...entry.offers]
      .toSorted(([one], [other]) => (one < other ? -1 : 1))
      .map(([, tool]) => tool);
    entry.tool = { ...strictest(offers), reconcilable: offers.some(({ reconcilable }) => reconcilable) };
    this.#noteConflict(entry, offers);
  }

  #noteConflict(entry: Entry, offers: readonly ToolFacts[]): void {
    const { local, notify } = this.#options;
    const { canonicalName } = entry.tool;
    const own = local(canonicalName);
    const effects = new Set([...offers, ...(own === undefined ? [] : [own])].map(({ effect }) => effect));
    const conflict = effects.size === 1 ? '' : [...effects].toSorted().join(', ');
    if (conflict === entry.conflict) return;
    entry.conflict = conflict;
    if (conflict !== '')
      notify({ type: 'tool.conflict', tool: canonicalName, effects: [...effects].toSorted() });
  }

  /** Let go of providers that were silent for too long, and of tools that nobody offered for too long (D2). */
  sweep(): void {
    const now = this.#options.clock.monotonic();
    for (const [id, provider] of this.#providers) {
      if (now - provider.heardAt <= provider.intervalMs * MISSED_BEATS) continue;
      this.#providers.delete(id);
      this.#offer(id, provider, []);
    }
    for (const [name, since] of this.#gone) {
      if (now - since < REMEMBER_MS) return;
      this.#gone.delete(name);
      this.#tools.delete(name);
    }
  }
}

/** The one of the strictest effect; the first of several. */
function strictest<T extends Pick<ToolFacts, 'effect'>>(offers: readonly T[]): T {
  return offers.reduce((one, other) => (STRICTNESS[other.effect] > STRICTNESS[one.effect] ? other : one));
}

function isAmong(allowed: ReadonlySet<string> | undefined, name: string): boolean {
  return allowed === undefined || allowed.has(canonicalToolName(name) ?? '');
}

/** Keep the latest. Returns the keys of what was let go. */
function trim(map: Map<string, unknown>, size: number): readonly string[] {
  const dropped = [...map.keys()].slice(0, Math.max(0, map.size - size));
  for (const key of dropped) map.delete(key);
  return dropped;
}
