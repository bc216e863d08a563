/** Carries out what an owner asks of the blobs of a node: to fetch some, or to offer some to a store node. */
import { messageOf } from '../../base/errors.ts'
import type { Call, Done } from '../../wire/work-messages.ts'
import type { Blobs } from './blobs.ts'

/** A failure is an answer; only an abort throws. */
export async function moveBlobs(
  blobs: Blobs,
  call: Extract<Call, { method: 'pull' | 'push' }>,
  signal: AbortSignal,
): Promise<Done> {
  try {
    const bytes =
      call.method === 'pull'
        ? await blobs.pull(call.entries, call.from, signal)
        : await blobs.push(call.entries, call.to, signal)
    return { ok: true, bytes, message: '' }
  } catch (error) {
    signal.throwIfAborted()
    return { ok: false, bytes: 0, message: messageOf(error).slice(0, 4096) }
  }
}
