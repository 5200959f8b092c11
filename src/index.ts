/** The public API. */
export {
  type EventPayloads,
  type EventType,
  type ExecutionEvent,
  type LogLevel,
  PROTOCOL_VERSION,
  type Redacted,
} from '../actors/events.ts';
export { createWorkerPoolAdapter, type WorkerPoolAdapter } from './adapter.ts';
export type { RedisSource } from './backends.ts';
export { EnclaveBroker, type EnclaveBrokerOptions } from './broker.ts';
export type { NatsOptions, NatsReconnectOptions, NatsTlsOptions } from './bus/nats.ts';
export type { ExecutionHandle } from './client/execution.ts';
export type {
  AllEventsOptions,
  EventsOptions,
  ExecuteOptions,
  MigrateOptions,
  RunOptions as StatelessRunOptions,
  SpawnOptions,
} from './client/options.ts';
export type { SessionInfo, SessionRef } from './client/session.ts';
export {
  type ClientStatus,
  EnclaveClient,
  type EnclaveClientOptions,
  type ReconnectionOptions,
} from './client.ts';
export { Enclave, type EnclaveConfig, type EnclaveStats, type RunOptions } from './enclave.ts';
export { EnclavePool, type EnclavePoolOptions } from './enclavepool.ts';
export { EnclaveError, type ErrorCode, type ExecutionError, type Outcome } from './errors.ts';
export { auditSchema, type EventSchemas, eventSchemas, type JsonSchema } from './eventschemas.ts';
export type { FallbackOption } from './fallback.ts';
export type { NatsSource } from './natssource.ts';
export type { AuditSink } from './ops/audit.ts';
export {
  type AdmissionOptions,
  type Limits,
  type ResolvedLimits,
  type ResolvedSessionLimits,
  type RuntimePoolOptions,
  recommendedPoolSize,
  type SessionLimitOptions,
  type SystemOptions,
  type TenantOptions,
  type WorkerPoolOptions,
  type Workload,
} from './options.ts';
export type { Durability, ExecutionStatus, KnownTool, SessionListed, SessionStatus } from './protocol.ts';
export {
  type ProvideToolsOptions,
  provideTools,
  type ToolService,
  type ToolServiceNats,
} from './providetools.ts';
export type { Provisioner } from './provision/provisioner.ts';
export type { ExecutionResult, ExecutionStats, ToolCallRecord } from './result.ts';
export type { RoutingOptions, RoutingRule, RoutingStrategy } from './routing.ts';
export type { RerunReport, TraceStep } from './runtime/rerun.ts';
export { EnclaveRuntime, type EnclaveRuntimeOptions, type RuntimeWorkerPool } from './runtime.ts';
export type { Isolation } from './sandbox/messages.ts';
export type { PoolStats, WorkerStats } from './sandbox/pool.ts';
export type { Containment } from './sandbox/process.ts';
export type { AuditedTool, AuditRecord } from './session/audit.ts';
export {
  type BrokerInfo,
  createSystem,
  type ExecutionJournal,
  type RuntimeInfo,
  type System,
} from './system.ts';
export type { CreateSystemOptions, Role } from './systemoptions.ts';
export { toolDeclarations } from './tools/declarations.ts';
export {
  type CallInDoubt,
  defineTool,
  type Reconcile,
  type Reconciled,
  type StandardSchemaV1,
  type Tool,
  type ToolContext,
  type ToolDefinition,
  type ToolEffect,
} from './tools/define.ts';
export {
  createToolRegistry,
  type ToolHandler,
  type ToolRegistry,
  type ToolRegistryOptions,
} from './tools/registry.ts';
