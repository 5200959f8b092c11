/** What providers tell of themselves and of their tools, checked: they may be services of other makers, and of other versions. */
import type { AdvertisedTool, ProviderHeartbeat, ToolPage } from '../protocol.ts';
import { ID } from '../subjects.ts';
import { canonicalToolName } from '../tools/define.ts';

/** Tools of one provider; it is not asked for more. */
export const MAX_TOOLS = 10_000;
const MAX_HASH_CHARS = 64;
const MAX_PAGES = 10_000;
const MAX_INTERVAL_MS = 60_000;
const EFFECTS = ['read', 'idempotent', 'unsafe'];

type Fields<T> = { readonly [K in keyof T]?: unknown };

/** The beat that a body is, or undefined. */
export function heartbeatOf(body: object): ProviderHeartbeat | undefined {
  const { provider, hash, draining, intervalMs } = body as Fields<ProviderHeartbeat>;
  const wellFormed =
    // It becomes part of a subject.
    typeof provider === 'string' &&
    ID.test(provider) &&
    isText(hash, MAX_HASH_CHARS) &&
    typeof draining === 'boolean' &&
    isWithin(intervalMs, 1, MAX_INTERVAL_MS);
  return wellFormed ? (body as ProviderHeartbeat) : undefined;
}

/** The page that a value is, without the tools on it that are none. */
export function toolPageOf(value: unknown): ToolPage | undefined {
  if (typeof value !== 'object' || value === null) return undefined;
  const { hash, page, pages, tools } = value as Fields<ToolPage>;
  const wellFormed =
    isText(hash, MAX_HASH_CHARS) &&
    isWithin(page, 0, MAX_PAGES) &&
    isWithin(pages, 0, MAX_PAGES) &&
    Array.isArray(tools) &&
    tools.length <= MAX_TOOLS;
  return wellFormed ? { ...(value as ToolPage), tools: tools.filter(isTool) } : undefined;
}

function isTool(value: unknown): value is AdvertisedTool {
  if (typeof value !== 'object' || value === null) return false;
  const { name, canonicalName, effect, reconcilable } = value as Fields<AdvertisedTool>;
  return (
    typeof name === 'string' &&
    canonicalToolName(name) !== undefined &&
    canonicalToolName(name) === canonicalName &&
    EFFECTS.includes(effect as string) &&
    typeof reconcilable === 'boolean'
  );
}

function isText(value: unknown, maxChars: number): value is string {
  return typeof value === 'string' && value.length > 0 && value.length <= maxChars;
}

function isWithin(value: unknown, least: number, most: number): value is number {
  return typeof value === 'number' && value >= least && value <= most;
}
