/**
 * Where the figures come from: without it they mean nothing.
 */
import os from 'node:os';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly platform: string;
  readonly node: string;
  readonly isolatedVm: string;
}

/** This machine, the Node that runs the benchmark, and the isolated-vm that both sides use. */
export async function describeMachine(): Promise<Machine> {
  const { default: ivm } = await import('isolated-vm/package.json', { with: { type: 'json' } });
  return {
    cpu: os.cpus()[0]?.model.trim() ?? 'unknown',
    cores: os.availableParallelism(),
    memoryBytes: os.totalmem(),
    platform: `${os.type()} ${os.release()} ${process.arch}`,
    node: process.version,
    isolatedVm: ivm.version,
  };
}
