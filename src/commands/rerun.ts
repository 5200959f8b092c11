/** `enclave rerun`: run an execution again from its journal, without calling any tool, and show its trace. */
import { readFile } from 'node:fs/promises';
import { createWorkerPoolAdapter } from '../adapter.ts';
import { systemClock } from '../clock.ts';
import { PoolSandbox } from '../poolsandbox.ts';
import type { JournalRead } from '../protocol.ts';
import { type RerunReport, rerun, type TraceStep } from '../runtime/rerun.ts';
import type { WorkerPool } from '../sandbox/pool.ts';

/** Print the trace and the verdict. Resolves to the exit code: 0 if it did what it did then, 2 if the file is no journal. */
export async function rerunFile(file: string): Promise<number> {
  const journal = await readJournal(file);
  return journal === undefined ? 2 : show(await rerunAlone(journal));
}

async function readJournal(path: string): Promise<JournalRead | undefined> {
  try {
    const journal = JSON.parse(await readFile(path, 'utf8')) as Partial<JournalRead>;
    if (
      typeof journal.source === 'string' &&
      Array.isArray(journal.calls) &&
      Array.isArray(journal.deliveries)
    )
      return journal as JournalRead;
    process.stderr.write(`${path} is not the journal of an execution\n`);
  } catch (error) {
    process.stderr.write(`${path}: ${error instanceof Error ? error.message : String(error)}\n`);
  }
  return undefined;
}

async function rerunAlone(journal: JournalRead): Promise<RerunReport> {
  const adapter = createWorkerPoolAdapter({ poolSize: 1 });
  const pool = adapter.attach();
  try {
    // Only a worker knows its versions, which the rerun compares first; an idle pool does not keep the process up.
    const awake = setInterval(() => undefined, 1_000);
    await workerReady(pool);
    clearInterval(awake);
    return await rerun(new PoolSandbox(pool), systemClock, journal);
  } finally {
    await adapter.detach();
  }
}

function workerReady(pool: WorkerPool): Promise<void> {
  return new Promise((resolve) => {
    const ignore = (): void => undefined;
    pool.observe({
      workerReady: () => resolve(),
      workerRetired: ignore,
      escalated: ignore,
      violation: ignore,
    });
  });
}

/** Print the trace and the verdict; 0 if it did what it did then. */
function show({ trace, verdict, difference, end }: RerunReport): number {
  for (const step of trace) process.stdout.write(`${line(step)}\n`);
  if (end !== undefined)
    process.stdout.write(
      end.ok ? `returned  ${JSON.stringify(end.value)}\n` : `failed    ${end.code}: ${end.message}\n`,
    );
  process.stdout.write(`verdict   ${verdict}${difference === undefined ? '' : `: ${difference}`}\n`);
  return verdict === 'same' ? 0 : 1;
}

function line(step: TraceStep): string {
  switch (step.type) {
    case 'output':
      return `${step.level.padEnd(9)} ${step.text.trimEnd()}`;
    case 'call':
      return `call      #${step.index} ${step.name}(${JSON.stringify(step.args) ?? ''})`;
    case 'sleep':
      return `sleep     #${step.index} ${step.ms} ms`;
    case 'handed':
      return `handed    #${step.index} ${step.code === '' ? JSON.stringify(step.value) : `${step.code}: ${String(step.value)}`}`;
  }
}
