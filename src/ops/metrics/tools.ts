/** Tool calls that ended: by tool and outcome, and the time in their handlers. */
import type { Registry } from 'prom-client';
import { canonicalToolName } from '../../tools/define.ts';
import { Bounded } from './bounded.ts';
import { counterOf, histogramOf } from './registry.ts';

/** Tools that get series of their own. */
const MAX_TOOLS = 200;
const OTHER_TOOLS = 'other';
/** Ends of calls that no tool was found for: scripts may write any name, so it gets no series. */
const NAMELESS: readonly string[] = ['UNKNOWN_TOOL', 'TOOL_NOT_ALLOWED'];
/** Ends that no handler came to. */
const UNHANDLED: readonly string[] = [...NAMELESS, 'TOOL_UNAVAILABLE', 'OUTCOME_UNKNOWN', 'CANCELLED'];

/** How calls end, as in the records of a result. */
export type ToolOutcome = 'completed' | 'failed' | 'unknown' | 'not_started';

export interface ToolMeter {
  /** `name` as the script wrote it; `code` '' for a result. */
  ended(name: string, outcome: ToolOutcome, code: string, durationMs: number): void;
}

export function meterTools(registry: Registry): ToolMeter {
  const total = counterOf(registry, 'enclave_tool_calls_total');
  const latency = histogramOf(registry, 'enclave_tool_call_latency_seconds');
  const tools = new Bounded(MAX_TOOLS, OTHER_TOOLS);
  const series = new Map<string, Map<ToolOutcome, { readonly tool: string; readonly outcome: string }>>();
  return {
    ended: (name, outcome, code, durationMs) => {
      const tool = NAMELESS.includes(code) ? OTHER_TOOLS : tools.of(canonicalToolName(name) ?? OTHER_TOOLS);
      let byOutcome = series.get(tool);
      if (byOutcome === undefined) series.set(tool, (byOutcome = new Map()));
      let labels = byOutcome.get(outcome);
      if (labels === undefined) byOutcome.set(outcome, (labels = { tool, outcome }));
      total.inc(labels);
      if (!UNHANDLED.includes(code)) latency.observe(durationMs / 1_000);
    },
  };
}
