/**
 * The web globals of the guest, gathered into one source text. ECMAScript alone has no `URL`, no text
 * encoding and no `structuredClone`, and scripts take all of them for granted.
 */
import { installAbort } from './abort.ts';
import { installBase64 } from './base64.ts';
import { installClone } from './clone.ts';
import { installEncoding } from './encoding.ts';
import { installEvents } from './events.ts';
import { installException } from './exception.ts';
import { installIdl } from './idl.ts';
import { installMicrotask } from './microtask.ts';
import { installParams } from './params.ts';
import { installUrl } from './url.ts';
import { installUtf8 } from './utf8.ts';

/** The names that {@link webSource} defines. */
export const WEB_GLOBALS = [
  'AbortController',
  'AbortSignal',
  'DOMException',
  'Event',
  'EventTarget',
  'TextDecoder',
  'TextEncoder',
  'URL',
  'URLSearchParams',
  'atob',
  'btoa',
  'queueMicrotask',
  'structuredClone',
] as const;

/**
 * Source text of a function `(global, host) => void` that makes every web global on `global`; `host` is a
 * {@link WebHost}. It calls no function of the host's and leaves nothing behind but the globals. It may run
 * after a script has patched intrinsics (see lazy.ts): the host function still sees primitive strings only.
 */
export function webSource(): string {
  return `((global, host) => {
'use strict';
const idl = (${installIdl})();
const utf8 = (${installUtf8})(idl);
const exception = (${installException})(global, idl);
(${installMicrotask})(global, idl);
(${installBase64})(global, idl, exception);
(${installEncoding})(global, idl, utf8);
(${installUrl})(global, host, idl, (${installParams})(global, idl, utf8));
(${installAbort})(global, idl, exception, (${installEvents})(global, idl, exception));
(${installClone})(global, idl, exception);
})`;
}
