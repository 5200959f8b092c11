/** The trace of a rerun as lines. */
// In a service of your own: from 'enclave-actors'.
import type { TraceStep } from '#enclave';
import { dim, name, row } from './print.ts';

/** One line per step: what the script did, or what it was handed. */
export function printTrace(trace: readonly TraceStep[]): void {
  for (const [index, step] of trace.entries())
    row(`${dim(String(index + 1).padStart(2))}  ${name(step.type.padEnd(8))}`, describe(step));
}

function describe(step: TraceStep): string {
  switch (step.type) {
    case 'output':
      return step.text.trimEnd();
    case 'call':
      return `#${step.index} ${step.name} ${dim(JSON.stringify(step.args))}`;
    case 'sleep':
      return `#${step.index} ${step.ms} ms`;
    case 'handed':
      return `#${step.index} ${step.code === '' ? '' : `${step.code} `}${JSON.stringify(step.value) ?? ''}`;
  }
}
