/** The routes of wire/storage.ts: this node's disk, for people. */
import type { ServerResponse } from 'node:http'
import type { FastifyInstance } from 'fastify'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { FsBlobStore } from '../../store/fs-blob-store.ts'
import type { Space as StoreSpace } from '../../store/retention/space.ts'
import { parseWith } from '../../wire/cbor.ts'
import { cidOf, type BlobRef, type Digest } from '../../wire/digest.ts'
import {
  GcRequest,
  PinRequest,
  UnpinRequest,
  type GcReport,
  type Pin,
  type Space,
  type Storage,
} from '../../wire/storage.ts'

export interface StorageDeps {
  readonly clock: Clock
  readonly store: FsBlobStore
  readonly node: string
  /** Of the store, for people. */
  readonly directory: string
  /** Brings it into the store with all that is in it; undefined when nobody has it. Throws MESH0501. */
  obtain(
    digest: Digest,
    options: { readonly size: undefined; readonly isTree: boolean },
    signal: AbortSignal,
  ): Promise<BlobRef | undefined>
}

export function addStorageRoutes(
  app: FastifyInstance,
  deps: StorageDeps,
  signalOf: (response: ServerResponse) => AbortSignal,
): void {
  app.get('/api/storage', () => storageOf(deps))
  app.post('/api/gc', (request) =>
    collect(deps, parseWith(GcRequest, request.body ?? {}, 'gc request')),
  )
  app.get('/api/pins', async () =>
    deps.store.pins.list().toSorted((a, b) => (a.atWall < b.atWall ? 1 : -1)),
  )
  app.post('/api/pins', (request, reply) =>
    pin(deps, parseWith(PinRequest, request.body, 'pin'), signalOf(reply.raw)),
  )
  app.post('/api/pins/remove', async (request): Promise<Pin> => {
    const { digest } = parseWith(UnpinRequest, request.body, 'unpin')
    const found = deps.store.pins.find(digest)
    if (found === undefined || !deps.store.pins.remove(digest))
      throw new MeshError('MESH0601', `there is no pin of ${digest} on ${deps.node}`)
    return found
  })
}

async function storageOf({ store, node, directory }: StorageDeps): Promise<Storage> {
  const { classes, executables, partial, trash } = await store.usage()
  return {
    v: 1,
    node,
    directory,
    space: spaceOf(store.space()),
    classes: { ...classes, partial, executables, trash },
  }
}

async function collect(
  { store, node }: StorageDeps,
  { dryRun, freeBytes }: GcRequest,
): Promise<GcReport> {
  // What somebody asks for by hand is what may go at all, unless they say how much is enough.
  const report = await store.collect({
    freeBytes: freeBytes ?? Infinity,
    takesRecent: false,
    isDryRun: dryRun,
  })
  return {
    v: 1,
    node,
    dryRun,
    evicted: dryRun ? report.evict : report.evicted,
    shortBytes: report.shortBytes,
    classes: report.classes,
    space: spaceOf(store.space()),
  }
}

/** Pinned before it is fetched: nothing of it can go while the rest comes. */
async function pin(
  deps: StorageDeps,
  { digest, kind, label }: PinRequest,
  signal: AbortSignal,
): Promise<Pin> {
  const { clock, store } = deps
  using held = new DisposableStack()
  held.use(store.leases.use([{ digest, size: 0, kind }]))
  const ref = await deps.obtain(digest, { size: undefined, isTree: kind === 'dir' }, signal)
  if (ref === undefined)
    throw new MeshError(
      'MESH0501',
      `nobody has ${cidOf(digest, kind === 'dir' ? 'object' : 'raw')}`,
    )
  const made: Pin = { ...ref, kind, label, atWall: new Date(clock.wallMs()).toISOString() }
  store.pins.add(made)
  return made
}

function spaceOf({ quotaBytes, ...space }: StoreSpace): Space {
  return { ...space, quotaBytes: quotaBytes ?? null }
}
