/**
 * Everything one run of the benchmark found: what `--json` prints and what the report lays out.
 */
import type { FloodResult } from './flood.ts';
import type { Machine } from './machine.ts';
import type { MemoryResult } from './memory.ts';
import type { RecyclingResult } from './recycling.ts';
import type { DurabilityRow, HibernationResult } from './sessions.ts';
import type { Settings } from './settings.ts';
import type { StartResult } from './start.ts';
import type { RowResult } from './throughput.ts';

/** A section that was not asked for, or could not be measured, is undefined. */
export interface Results {
  readonly machine: Machine;
  readonly settings: Settings;
  readonly throughput: readonly RowResult[] | undefined;
  readonly start: StartResult | undefined;
  readonly memory: MemoryResult | undefined;
  readonly recycling: readonly RecyclingResult[] | undefined;
  readonly flood: FloodResult | undefined;
  readonly durability: readonly DurabilityRow[] | undefined;
  readonly hibernation: HibernationResult | undefined;
}
