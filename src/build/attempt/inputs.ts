/** What an action takes: brought into the store, and laid out on this host for as long as its build needs it. */
import { MeshError } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import type { Action } from '../../wire/action.ts'
import type { Digest } from '../../wire/digest.ts'
import type { BytesMoved } from '../../wire/facts.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { blobOf, type Entry } from '../../wire/tree.ts'
import type { Lease } from '../../wire/work-messages.ts'
import type { BuildInput } from '../executor.ts'
import type { ImageRoot } from '../executor-protocol.ts'
import { imageRoot } from '../image-root.ts'
import type { MaterialisedTrees } from '../materialised.ts'
import type { Runnable } from '../probe/systems.ts'

/** Inputs that are fetched at once per attempt. */
const INPUTS_AT_ONCE = 8

/** Brings an input into the store, from wherever it can be had. Throws MESH0501. */
export type Obtain = (
  entry: Entry,
  options: { readonly peers: readonly PeerRecord[]; readonly signal: AbortSignal },
) => Promise<BytesMoved>

/** Inputs that no peer and no mirror has. */
export class MissingInputs extends Error {
  readonly inputs: readonly Digest[]
  constructor(inputs: readonly Digest[], message: string) {
    super(message)
    this.inputs = inputs
  }
}

/** What has to be in the store before it begins, by what people know it as. */
function entriesByName({ inputs, image = [] }: Action): [string, Entry][] {
  return [...inputs, ...image.map((layer, at): [string, Entry] => [`image ${at + 1}`, layer])]
}

export const entriesOfAction = (action: Action): Entry[] =>
  entriesByName(action).map(([, entry]) => entry)

/** Throws MissingInputs with all that cannot be had; `name` is that of the job, for people. */
export async function obtainInputs(
  obtain: Obtain,
  action: Action,
  options: {
    readonly name: string
    readonly hints?: Pick<Lease, 'hints' | 'peers'>
    readonly signal: AbortSignal
    readonly onMoved?: (bytes: BytesMoved) => void
  },
): Promise<void> {
  const { name, hints: { hints: known, peers: all } = { hints: [], peers: [] }, signal } = options
  const hints = new Map(known)
  const missing: Digest[] = []
  let message = ''
  await mapLimited(entriesByName(action), INPUTS_AT_ONCE, async ([path, entry]) => {
    const blob = blobOf(entry)
    if (blob === undefined) return
    const peers = (hints.get(blob.digest) ?? []).flatMap((at) => all[at] ?? [])
    try {
      options.onMoved?.(await obtain(entry, { peers, signal }))
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'MESH0501') throw error
      missing.push(blob.digest)
      message ||= `input ${path.slice(path.lastIndexOf('/') + 1)} of ${name}: ${error.message}`
    }
  })
  if (missing.length > 0) throw new MissingInputs(missing, message)
}

/** Paths of this host, which may go away once it is disposed of. */
export interface LaidInputs extends Disposable {
  readonly inputs: readonly BuildInput[]
  /** Undefined for the host's own tools. */
  readonly image: ImageRoot | undefined
}

/** All must be in the store. `host` is the system of the environment. Throws MESH0501 for what is not, MESH0505 where this machine cannot enter the image. */
export async function layInputs(
  { trees, systems }: { readonly trees: MaterialisedTrees; readonly systems: readonly Runnable[] },
  action: Action,
  host: string,
): Promise<LaidInputs> {
  using held = new DisposableStack()
  const pathOf = async (entry: Exclude<Entry, { kind: 'symlink' }>): Promise<string> => {
    const materialised = await trees.acquire(entry)
    held.defer(() => materialised.release())
    return materialised.path
  }
  const inputs: BuildInput[] = []
  for (const [path, entry] of action.inputs)
    inputs.push({
      path,
      source:
        entry.kind === 'symlink'
          ? { kind: 'symlink', target: entry.target }
          : { kind: entry.kind, hostPath: await pathOf(entry) },
    })
  const image = action.image && (await rootOf(action.image, host, { systems, pathOf }))
  const kept = held.move()
  return { inputs, image, [Symbol.dispose]: () => kept.dispose() }
}

async function rootOf(
  image: readonly Entry[],
  host: string,
  deps: {
    readonly systems: readonly Runnable[]
    readonly pathOf: (entry: Extract<Entry, { kind: 'dir' }>) => Promise<string>
  },
): Promise<ImageRoot> {
  const runnable = deps.systems.find(({ system }) => system === host)
  if (runnable === undefined)
    throw new MeshError('MESH0505', `this machine runs no programs of ${host}`)
  const layers: string[] = []
  for (const layer of image) {
    if (layer.kind !== 'dir') throw new MeshError('MESH0505', `a layer is a ${layer.kind}`)
    layers.push(await deps.pathOf(layer))
  }
  return imageRoot(layers, runnable)
}
