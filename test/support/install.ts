/**
 * The servers that the tests need, found or installed once before all tests (`globalSetup` of vitest).
 *
 * On Debian, as root, what is missing is installed; anywhere else the error says what to install and how.
 */
import { execFileSync } from 'node:child_process';
import { accessSync, chmodSync, constants, existsSync, rmSync, writeFileSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { sweep } from './processes.ts';

/** The Debian package of every program. */
const PACKAGES = {
  'nats-server': 'nats-server',
  'redis-server': 'redis-server',
  'redis-cli': 'redis-tools',
  prometheus: 'prometheus',
  promtool: 'prometheus',
  openssl: 'openssl',
} as const;

export type Program = keyof typeof PACKAGES;

/** Debian puts nats-server where the PATH of a plain user does not look. */
const MORE_PLACES = ['/usr/local/sbin', '/usr/sbin', '/usr/local/bin', '/opt/homebrew/bin'];

/** invoke-rc.d asks this script whether a daemon may start; 101 means no. */
const POLICY = '/usr/sbin/policy-rc.d';

/** Where a program is, or undefined. */
export function find(name: string): string | undefined {
  const places = [...(process.env.PATH ?? '').split(delimiter), ...MORE_PLACES];
  return places
    .filter((place) => place !== '')
    .map((place) => join(place, name))
    .find(isExecutable);
}

/**
 * The path of a program that the tests need.
 *
 * @throws Error that says how to install it, when it is not there.
 */
export function binary(name: Program): string {
  const path = find(name);
  if (path === undefined) throw new Error(howToInstall([name]));
  return path;
}

/** Vitest calls this once before all tests, and what it returns after them. */
export default function setup(): () => void {
  sweep();
  const missing = (Object.keys(PACKAGES) as Program[]).filter((name) => find(name) === undefined);
  if (missing.length > 0) install(missing);
  return sweep;
}

function install(missing: readonly Program[]): void {
  if (process.getuid?.() !== 0 || find('apt-get') === undefined) throw new Error(howToInstall(missing));
  // The packages start daemons of their own, which would take the default ports.
  const ours = !existsSync(POLICY);
  try {
    if (ours) {
      writeFileSync(POLICY, '#!/bin/sh\nexit 101\n');
      chmodSync(POLICY, 0o755);
    }
    apt('update');
    apt('install', '-y', '--no-install-recommends', ...packagesOf(missing));
  } catch (cause) {
    throw new Error(howToInstall(missing), { cause });
  } finally {
    if (ours) rmSync(POLICY, { force: true });
  }
  for (const name of missing) binary(name);
}

function apt(...args: readonly string[]): void {
  execFileSync('apt-get', ['-q', ...args], {
    stdio: ['ignore', 'ignore', 'inherit'],
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
    timeout: 300_000,
  });
}

function packagesOf(programs: readonly Program[]): readonly string[] {
  return [...new Set(programs.map((name) => PACKAGES[name]))];
}

function howToInstall(missing: readonly Program[]): string {
  return (
    `The tests need ${missing.join(' and ')}, found neither on PATH nor in ${MORE_PLACES.join(', ')}. ` +
    `On Debian: apt-get install ${packagesOf(missing).join(' ')} (the tests do so themselves when root runs them); ` +
    'on macOS: brew install nats-server redis prometheus.'
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
