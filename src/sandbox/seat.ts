/** What an execution may ask of the worker that it is in. */
import type { Delivery } from './messages.ts';

/** An attempt's place in a worker. */
export interface Seat {
  /** The worker's name: that of its slot. */
  readonly worker: string;
  readonly deliver: (deliveries: readonly Delivery[]) => void;
  /** Ask the worker to stop the script; it answers with `stopped`. */
  readonly cancel: () => void;
  /** Kill the worker because of this execution: its neighbours are innocent. */
  readonly kill: () => void;
  /** The script waits for deliveries only, or runs again. */
  readonly waiting: (waits: boolean) => void;
  /** The execution is over here. `sound`: it did not harm its worker. */
  readonly leave: (sound: boolean) => void;
  /** Start again in the same worker, on a thread of its own. */
  readonly again: () => void;
}
