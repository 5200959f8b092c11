/** The question what became of a call whose provider was lost, asked under the same bounds as a call. */
import type { CallEnd } from '../protocol.ts';
import type { Reconcile } from './define.ts';
import { callTool, type ToolCall, type ToolCallOptions, type ToolReply } from './dispatch.ts';
import type { ResolvedTool } from './registry.ts';

/**
 * Ask the tool. Never rejects: a tool without `reconcile`, one that throws, takes too long or answers nonsense, and
 * a value that its schema refuses or that cannot be told, are all `unknown`.
 */
export async function reconcileCall(
  tool: ResolvedTool,
  argsJson: string,
  call: ToolCall,
  options: ToolCallOptions,
): Promise<CallEnd> {
  const { reconcile } = tool;
  if (reconcile === undefined) return { ok: 'unknown' };
  let notStarted = false;
  const question: ResolvedTool = {
    ...tool,
    input: undefined,
    handler: async (args, ctx) => {
      const answer = await answerOf(reconcile, call.idempotencyKey, args, ctx);
      if (answer.status === 'completed') return answer.value;
      notStarted = answer.status === 'not_started';
      throw new NoResult();
    },
  };
  const reply = await callTool(question, argsJson, call, options);
  if (reply.ok) return reply;
  return { ok: notStarted ? 'not_started' : 'unknown' };
}

/** There is no result to check and to tell. Goes no further than {@link reconcileCall}. */
class NoResult extends Error {}

async function answerOf(
  reconcile: Reconcile,
  key: string,
  args: unknown,
  ctx: Parameters<Reconcile>[1],
): Promise<{ readonly status: string; readonly value?: unknown }> {
  const answer: unknown = await reconcile({ key, args }, ctx);
  if (typeof answer !== 'object' || answer === null) return { status: 'unknown' };
  const { status, value } = answer as { readonly status?: unknown; readonly value?: unknown };
  if (status === 'completed' && !('value' in answer)) return { status: 'unknown' };
  return { status: String(status), value };
}

/** A call's end as the owner is told it. */
export function callEnd(reply: ToolReply): CallEnd {
  return reply.ok ? reply : { ok: false, code: reply.code, message: reply.message };
}
