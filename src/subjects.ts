/**
 * Every subject, built in one place. `<ns>` is the namespace, which is the tenant boundary; all ids are
 * `[A-Za-z0-9_-]{1,64}`, so none of them can hold a dot or a wildcard.
 *
 * ```
 * enclave.<ns>.broker.<verb>               queue group `brokers`
 * enclave.<ns>.broker.<id>.cmd             one broker: adopt a session
 * enclave.<ns>.broker.<id>.heartbeat
 * enclave.<ns>.session.<id>.cmd            the owner
 * enclave.<ns>.session.<id>.in.<attempt>   runtime → owner
 * enclave.<ns>.session.<id>.in.tools       provider → owner
 * enclave.<ns>.session.<id>.event.<type>   everyone
 * enclave.<ns>.runtime.<id>.cmd            owner → runtime
 * enclave.<ns>.runtime.<id>.heartbeat
 * enclave.<ns>.runtime.probe               broker → every runtime
 * enclave.<ns>.tool.<name>                 queue group `providers`
 * enclave.<ns>.provider.<id>.cmd           owner, broker → provider
 * enclave.<ns>.provider.<id>.heartbeat     provider → every broker
 * enclave.<ns>.provider.probe              owner, broker → every provider
 * enclave.<ns>.client.<id>.result          owner → client
 * enclave.<ns>.audit                       broker → observers
 * enclave.<ns>.deadletter
 * ```
 */

/** What a broker of the queue group does for anybody. */
export type BrokerVerb =
  | 'run'
  | 'session_create'
  | 'session_activate'
  | 'session_info'
  | 'sessions_list'
  | 'session_result'
  | 'events_read'
  | 'journal_read'
  | 'tools_list';

export const BROKERS = 'brokers';
export const PROVIDERS = 'providers';
/** In the place of an attempt: what providers say to an owner. No attempt is called so: their ids have 22 characters. */
export const TOOLS = 'tools';

export interface Subjects {
  readonly namespace: string;
  broker(verb: BrokerVerb): string;
  brokerCmd(id: string): string;
  brokerHeartbeat(id: string): string;
  sessionCmd(id: string): string;
  /** One attempt's reports; `*` for all of a session. */
  sessionIn(id: string, attempt: string): string;
  sessionTools(id: string): string;
  /** One type of a session's events; `*` for all, of either. */
  sessionEvent(id: string, type: string): string;
  runtimeCmd(id: string): string;
  runtimeHeartbeat(id: string): string;
  readonly runtimeProbe: string;
  /** `name` is canonical: its segments are joined by `.`. */
  tool(name: string): string;
  providerCmd(id: string): string;
  providerHeartbeat(id: string): string;
  readonly providerProbe: string;
  clientResult(id: string): string;
  /** A record of every execution that ended. */
  readonly audit: string;
  readonly deadletter: string;
}

/** Ids that may be part of a subject or a key. */
export const ID = /^[A-Za-z0-9_-]{1,64}$/;

export function subjectsOf(namespace: string): Subjects {
  const root = `enclave.${namespace}`;
  return {
    namespace,
    broker: (verb) => `${root}.broker.${verb}`,
    brokerCmd: (id) => `${root}.broker.${id}.cmd`,
    brokerHeartbeat: (id) => `${root}.broker.${id}.heartbeat`,
    sessionCmd: (id) => `${root}.session.${id}.cmd`,
    sessionIn: (id, attempt) => `${root}.session.${id}.in.${attempt}`,
    sessionTools: (id) => `${root}.session.${id}.in.${TOOLS}`,
    sessionEvent: (id, type) => `${root}.session.${id}.event.${type}`,
    runtimeCmd: (id) => `${root}.runtime.${id}.cmd`,
    runtimeProbe: `${root}.runtime.probe`,
    runtimeHeartbeat: (id) => `${root}.runtime.${id}.heartbeat`,
    tool: (name) => `${root}.tool.${name}`,
    providerCmd: (id) => `${root}.provider.${id}.cmd`,
    providerHeartbeat: (id) => `${root}.provider.${id}.heartbeat`,
    providerProbe: `${root}.provider.probe`,
    clientResult: (id) => `${root}.client.${id}.result`,
    audit: `${root}.audit`,
    deadletter: `${root}.deadletter`,
  };
}
