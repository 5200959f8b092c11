/**
 * A provider's word about itself: beats that name the list of its tools by a hash, and the list, page by page, for
 * whoever asks. A list does not change while its provider lives.
 */
import { createHash } from 'node:crypto';
import type { Bus } from '../bus/bus.ts';
import type { Clock } from '../clock.ts';
import type { AdvertisedTool, ProviderHeartbeat, ToolPage } from '../protocol.ts';
import type { Subjects } from '../subjects.ts';
import { publishOrDrop } from '../telling.ts';
import { jsonSchema } from './declarations.ts';
import type { ResolvedTool, ToolRegistry } from './registry.ts';

const BEAT_MS = 1_000;
/** Longest page, in bytes of JSON, where the bus carries twice as much. */
const PAGE_BYTES = 256 * 1024;
/** A schema that is longer is left out, a description is cut. */
const MAX_SCHEMA_BYTES = 32 * 1024;
const MAX_DESCRIPTION_CHARS = 4_000;
const HASH_CHARS = 22;

export interface AnnouncerOptions {
  readonly id: string;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly subjects: Subjects;
  readonly registry: ToolRegistry;
}

export class Announcer {
  readonly #options: AnnouncerOptions;
  readonly #hash: string;
  readonly #count: number;
  readonly #pages: readonly (readonly AdvertisedTool[])[];
  #draining = false;
  #cancel: (() => void) | undefined;

  constructor(options: AnnouncerOptions) {
    const { bus, registry } = options;
    const pageBytes = Math.min(PAGE_BYTES, Math.floor(bus.maxPayloadBytes / 2));
    const texts = registry
      .names()
      .map((name) => registry.resolve(name))
      .filter((tool) => tool !== undefined)
      .map((tool) => advertised(tool, pageBytes));
    this.#options = options;
    this.#count = texts.length;
    this.#hash = createHash('sha256').update(texts.join('\n')).digest('base64url').slice(0, HASH_CHARS);
    this.#pages = paged(texts, pageBytes);
  }

  /** Beat now, and every second from now on. */
  start(): void {
    this.beat();
    this.#beatLater();
  }

  /** Tell at once that no more calls are taken. Beats go on: what runs has a provider. */
  drain(): void {
    this.#draining = true;
    this.beat();
  }

  stop(): void {
    this.#cancel?.();
  }

  /** Beat now. Returns what was told. */
  beat(): ProviderHeartbeat {
    const { id, bus, subjects } = this.#options;
    const beat: ProviderHeartbeat = {
      provider: id,
      hash: this.#hash,
      tools: this.#count,
      draining: this.#draining,
      intervalMs: BEAT_MS,
    };
    // The next one may get through.
    publishOrDrop(bus, subjects.providerHeartbeat(id), beat);
    return beat;
  }

  /** A page of the list; one that there is not is empty. */
  page(page: number): ToolPage {
    return { hash: this.#hash, page, pages: this.#pages.length, tools: this.#pages[page] ?? [] };
  }

  #beatLater(): void {
    this.#cancel = this.#options.clock.after(BEAT_MS, () => {
      this.#beatLater();
      this.beat();
    });
  }
}

/** JSON of what is told of a tool: no longer than a page. */
function advertised(tool: ResolvedTool, pageBytes: number): string {
  const { name, canonicalName, effect, reconcile, timeoutMs, description } = tool;
  const least: AdvertisedTool = { name, canonicalName, effect, reconcilable: reconcile !== undefined };
  const input = schemaText(tool);
  const fields = [
    ...(timeoutMs === undefined ? [] : [`"timeoutMs":${timeoutMs}`]),
    ...(description === undefined
      ? []
      : [`"description":${JSON.stringify(description.slice(0, MAX_DESCRIPTION_CHARS))}`]),
    ...(input === undefined ? [] : [`"input":${input}`]),
  ];
  const short = JSON.stringify(least);
  const text = [short.slice(0, -1), ...fields].join(',').concat('}');
  return Buffer.byteLength(text) <= pageBytes ? text : short;
}

/** A schema that is not JSON, such as one that holds itself, is none for others. */
function schemaText({ input }: ResolvedTool): string | undefined {
  try {
    const text = JSON.stringify(jsonSchema(input, 'input')) as string | undefined;
    return text !== undefined && Buffer.byteLength(text) <= MAX_SCHEMA_BYTES ? text : undefined;
  } catch {
    return undefined;
  }
}

function paged(texts: readonly string[], pageBytes: number): readonly (readonly AdvertisedTool[])[] {
  const pages: AdvertisedTool[][] = [];
  let left = 0;
  for (const text of texts) {
    const bytes = Buffer.byteLength(text) + 1;
    if (bytes > left) {
      pages.push([]);
      left = pageBytes;
    }
    left -= bytes;
    pages.at(-1)?.push(JSON.parse(text) as AdvertisedTool);
  }
  return pages;
}
