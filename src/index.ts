/** The public API. */
export {
  type EventPayloads,
  type EventType,
  type ExecutionEvent,
  type LogLevel,
  PROTOCOL_VERSION,
} from '../actors/events.ts';
export { createWorkerPoolAdapter, type WorkerPoolAdapter } from './adapter.ts';
export { Enclave, type EnclaveConfig, type EnclaveStats, type RunOptions } from './enclave.ts';
export { EnclavePool, type EnclavePoolOptions } from './enclavepool.ts';
export { EnclaveError, type ErrorCode, type ExecutionError, type Outcome } from './errors.ts';
export {
  type Limits,
  type ResolvedLimits,
  recommendedPoolSize,
  type WorkerPoolOptions,
  type Workload,
} from './options.ts';
export type { ExecutionResult, ExecutionStats, ToolCallRecord } from './result.ts';
export type { Isolation } from './sandbox/messages.ts';
export type { PoolStats, WorkerStats } from './sandbox/pool.ts';
export type { Containment } from './sandbox/process.ts';
export { toolDeclarations } from './tools/declarations.ts';
export {
  defineTool,
  type StandardSchemaV1,
  type Tool,
  type ToolContext,
  type ToolDefinition,
  type ToolEffect,
} from './tools/define.ts';
export type { ToolHandler } from './tools/registry.ts';
