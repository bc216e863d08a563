/** Gives a tree a name: sends what the daemon lacks, tells the owner, and waits until a store node has it. */
import { sleep } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { Status } from '../../wire/api.ts'
import { System } from '../../wire/names.ts'
import { ImageView, type ImageOrder } from '../../wire/images.ts'
import type { Described } from '../../files/image/describe.ts'
import type { ReadBlob } from '../../files/lay-out.ts'
import type { Client } from '../client.ts'
import type { Context } from '../context.ts'
import type { Upload } from '../upload.ts'

/** How long a store node is waited for; it goes on without the client. */
const STORED_MS = 600_000
const ASK_MS = 300

/** Throws MESH0601 with the nearest names. */
export const imageOf = (client: Client, name: string): Promise<ImageView> =>
  client.json(ImageView, `/api/images/${encodeURIComponent(name)}`)

/** What was just read here, else what the mesh has. */
export const readerOf =
  (upload: Upload, client: Pick<Client, 'blob'>): ReadBlob =>
  (ref) =>
    upload.find(ref.digest)?.open() ?? client.blob(ref)

/** Throws MESH0002 for what is no system. */
export function systemOption(text: string | undefined): string | undefined {
  if (text === undefined || System.safeParse(text).success) return text
  throw new MeshError('MESH0002', `--system ${text}: a system looks like "x86_64-linux"`)
}

export async function nameImage(
  { client, context }: { readonly client: Client; readonly context: Context },
  name: string,
  image: Described,
): Promise<ImageView> {
  const status = await client.json(Status, '/api/status')
  const from = { peerId: status.peerId, name: status.name }
  const order: ImageOrder = { ...image, from }
  const path = `/api/images/${encodeURIComponent(name)}`
  let view = await client.send(ImageView, 'POST', path, order)
  const { clock } = context
  const giveUpAtMs = clock.nowMs() + STORED_MS
  while (view.stores.length === 0 && view.digest === image.digest && clock.nowMs() < giveUpAtMs) {
    // Nobody could keep it: who put it must know, and need not wait.
    if (view.problem !== undefined) return view
    await sleep(clock, ASK_MS)
    view = await client.json(ImageView, path)
  }
  return view
}
