/** The way of a graph to the daemon and through it: upload, submit, follow, cancel. `submit` and `run` share it. */
import { arch, platform } from 'node:process'
import { MeshError } from '../base/errors.ts'
import { randomId } from '../base/random.ts'
import { RequestView, type Event, type Submission } from '../wire/api.ts'
import type { Client } from './client.ts'
import type { Context } from './context.ts'
import type { Upload } from './upload.ts'

const ARCHITECTURES: Readonly<Record<string, string>> = {
  x64: 'x86_64',
  arm64: 'aarch64',
  arm: 'armv7l',
  ia32: 'i686',
}

/** `x86_64-linux`: what a derivation is built for when it says nothing. */
export const thisSystem = (): string => `${ARCHITECTURES[arch] ?? arch}-${platform}`

/** Uploads what is missing and submits. The same id again is the same request, so that each step may be repeated. */
export async function submitGraph(
  {
    client,
    context,
    upload,
  }: { readonly client: Client; readonly context: Context; readonly upload: Upload },
  submission: Submission,
  onNotice: (text: string) => void,
): Promise<RequestView> {
  await upload.send(client, onNotice)
  const id = randomId(context.random, 'r')
  return client.send(RequestView, 'PUT', `/api/requests/${id}`, submission)
}

export interface FollowOptions {
  readonly onEvent: (event: Event) => void | Promise<void>
  readonly onNotice: (text: string) => void
  /** Ends the following, not the request. */
  readonly signal: AbortSignal
}

/** The request at its end; undefined when the signal came first. */
export async function followRequest(
  client: Client,
  id: string,
  { onEvent, onNotice, signal }: FollowOptions,
): Promise<RequestView | undefined> {
  const onLost = (): void =>
    onNotice('the connection to the daemon was lost; the request goes on; connecting again')
  for await (const event of client.events(id, signal, onLost)) {
    await onEvent(event)
    if (event.type === 'end') return event.request
  }
  if (signal.aborted) return undefined
  throw new MeshError('MESH0001', `the events of ${id} ended without an end`)
}

/** ^C: once cancels, and what is followed ends in its own time; twice leaves at once. */
export function cancelOnInterrupt(
  { client, context }: { readonly client: Client; readonly context: Context },
  id: string,
  options: { readonly onNotice: (text: string) => void; readonly exit: number },
): Disposable & { interrupt(): void; readonly count: number } {
  let count = 0
  const interrupt = (): void => {
    if (++count > 1) context.leave(options.exit)
    options.onNotice(`cancelling ${id}; jobs that others need go on; ^C again leaves at once`)
    client.send(RequestView, 'POST', `/api/requests/${id}/cancel`).catch((error: unknown) => {
      options.onNotice(
        `${id} could not be cancelled: ${error instanceof Error ? error.message : String(error)}`,
      )
    })
  }
  const handler = context.onInterrupt(interrupt)
  return {
    interrupt,
    get count() {
      return count
    },
    [Symbol.dispose]: () => handler[Symbol.dispose](),
  }
}
