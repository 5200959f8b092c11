/** Options of a command that stand in the environment, too: each in one line, with the variable and what it means. */
import type { Command } from 'commander';
import { flagFromEnv, fromEnv, type Variable } from '../env.ts';

/** How a text is read. Throws INVALID_ARGUMENT naming `key`, the option or the variable that it was given by. */
export type Read<T> = (text: string, key: string) => T;

export interface Setting<T> {
  /** `--name <value>`, or `--name` of one that is on or off. */
  readonly flags: string;
  readonly variable: Variable;
  readonly about: string;
  /** Undefined: it is on or off. */
  readonly read: Read<T> | undefined;
}

export const setting = <T>(flags: string, variable: Variable, about: string, read: Read<T>): Setting<T> => ({
  flags,
  variable,
  about,
  read,
});

export const flag = (flags: string, variable: Variable, about: string): Setting<boolean> => ({
  flags,
  variable,
  about,
  read: undefined,
});

/** As it was given. */
export const text: Read<string> = (given) => given;

type Values<S> = { readonly [K in keyof S]: S[K] extends Setting<infer T> ? T | undefined : never };

/** Give a command its settings. Returns what reads them once it was asked for: what was said there wins over the environment. */
export function settle<S extends Readonly<Record<string, Setting<unknown>>>>(
  command: Command,
  settings: S,
): () => Values<S> {
  const readers = Object.entries(settings).map(([key, { flags, variable, about, read }]) => {
    const option = command.createOption(flags, `${about} (${variable})`);
    command.addOption(option);
    const [name = ''] = flags.split(' ');
    const value = (): unknown => {
      const said: unknown = command.getOptionValue(option.attributeName());
      if (read === undefined) return said === true ? true : flagFromEnv(variable);
      if (typeof said === 'string') return read(said, name);
      const stands = fromEnv(variable);
      return stands === undefined ? undefined : read(stands, variable);
    };
    return [key, value] as const;
  });
  // Each is what its own setting reads.
  return () => Object.fromEntries(readers.map(([key, value]) => [key, value()])) as Values<S>;
}
