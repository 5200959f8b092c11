/** What a process does: the broker, runtime, provider and client of the library, put on a simulated stage. */
import { type Bus, BusError } from '../../src/bus/bus.ts';
import { EnclaveError } from '../../src/errors.ts';
import { RuntimeHost } from '../../src/runtime/host.ts';
import { Broker } from '../../src/session/broker.ts';
import type { SnapshotCodec } from '../../src/session/snapshot.ts';
import { type Store, StoreError } from '../../src/store/store.ts';
import type { Subjects } from '../../src/subjects.ts';
import { ToolProvider } from '../../src/tools/provider.ts';
import type { Clients } from './clients.ts';
import type { Defect } from './defects.ts';
import type { Faults } from './faults.ts';
import type { Ledger } from './ledger.ts';
import type { Process } from './process.ts';
import { Random } from './random.ts';
import { SimulatedSandbox } from './sandbox.ts';
import type { Scheduler } from './scheduler.ts';
import type { Settings } from './settings.ts';
import { SimulatedStore } from './store.ts';
import type { ToolWorld } from './tools.ts';

/** How a role ends: by itself, or without a word. */
export interface Role {
  readonly leave: () => Promise<void>;
  readonly abandon: () => void;
}

/** What roles need of their world. */
export interface Stage {
  readonly seed: number;
  readonly settings: Settings;
  readonly defect: Defect;
  readonly scheduler: Scheduler;
  readonly faults: Faults;
  readonly ledger: Ledger;
  readonly tools: ToolWorld;
  readonly clients: Clients;
  /** The store itself. */
  readonly backend: Store;
  readonly subjects: Subjects;
  readonly note: (who: string, what: string) => void;
  readonly fail: (error: unknown) => void;
  readonly dieAfterStep: (process: Process, why: string) => void;
  readonly onLost: (attempt: string, alone: boolean) => void;
  /** What the broker's release reads and writes. */
  readonly snapshotsOf: (broker: Process) => SnapshotCodec;
}

/** After this long a runtime lets an attempt go that nobody asks for, in ms: well before the calm ends. */
const ORPHAN_MS = 20_000;
/** How long those who leave by themselves wait for what they still have, in ms. */
const GRACE_MS = 1_500;

/** Begin to play the role that the process is of. */
export function play(stage: Stage, process: Process, bus: Bus): Role {
  switch (process.kind) {
    case 'broker':
      return playBroker(stage, process, bus);
    case 'runtime':
      return playRuntime(stage, process, bus);
    case 'provider':
      return playProvider(stage, process, bus);
    case 'client':
      stage.clients.add(process, bus);
      return { leave: () => Promise.resolve(), abandon: () => undefined };
  }
}

function playBroker(stage: Stage, process: Process, bus: Bus): Role {
  const { id } = process;
  const note = (what: string): void => stage.note(id, what);
  const registry = stage.tools.registry(process);
  const store = new SimulatedStore({
    process,
    scheduler: stage.scheduler,
    random: Random.of(stage.seed, `${id}.store`),
    backend: stage.backend,
    ledger: stage.ledger,
    faults: stage.faults,
    dieAfterStep: stage.dieAfterStep,
    note,
    report: stage.fail,
  });
  const broker = new Broker({
    ...stage.settings.broker,
    id,
    bus,
    store: stage.defect.store?.(store, process, stage.scheduler) ?? store,
    clock: stage.defect.clock?.(process.clock) ?? process.clock,
    subjects: stage.subjects,
    snapshots: stage.snapshotsOf(process),
    tool: (name) => {
      const tool = registry.resolve(name);
      if (tool === undefined) return undefined;
      return {
        canonicalName: tool.canonicalName,
        effect: tool.effect,
        reconcilable: tool.reconcile !== undefined,
      };
    },
    onNotice: (notice) => {
      if (notice.type !== 'error')
        return note(`${notice.type} ${'session' in notice ? notice.session : JSON.stringify(notice)}`);
      if (!(notice.error instanceof StoreError) && !(notice.error instanceof BusError))
        stage.fail(notice.error);
    },
  });
  const provider = stage.settings.shared ? provide(stage, process, bus) : undefined;
  void broker.start().catch((error: unknown) => {
    // It was killed before it had started.
    if (!(error instanceof EnclaveError && error.code === 'CLOSED')) stage.fail(error);
  });
  return {
    leave: async () => {
      await broker.close();
      await provider?.drain(GRACE_MS);
      provider?.close();
    },
    abandon: () => broker.abandon(),
  };
}

function playRuntime(stage: Stage, process: Process, bus: Bus): Role {
  const sandbox = new SimulatedSandbox({
    process,
    scheduler: stage.scheduler,
    random: Random.of(stage.seed, `${process.id}.sandbox`),
    capacity: stage.settings.capacity,
    defects: stage.defect.sandbox ?? {},
    fails: (what) => stage.faults.happens(what === 'lost' ? 'lostAttempt' : 'refusedAttempt'),
    onLost: stage.onLost,
    note: (what) => stage.note(process.id, what),
  });
  const host = new RuntimeHost({
    id: process.id,
    bus,
    clock: process.clock,
    subjects: stage.subjects,
    sandbox,
    labels: {},
    orphanMs: ORPHAN_MS,
  });
  void host.start();
  return {
    leave: async () => {
      await host.drain(GRACE_MS);
      host.close();
    },
    abandon: () => undefined,
  };
}

function playProvider(stage: Stage, process: Process, bus: Bus): Role {
  const provider = provide(stage, process, bus);
  return {
    leave: async () => {
      await provider.drain(GRACE_MS);
      provider.close();
    },
    abandon: () => undefined,
  };
}

function provide(stage: Stage, process: Process, bus: Bus): ToolProvider {
  const provider = new ToolProvider({
    id: process.id,
    bus,
    clock: process.clock,
    subjects: stage.subjects,
    registry: stage.tools.registry(process),
  });
  void provider.start();
  return provider;
}
