/** Nodes in one process that exchange blobs over CAS links in memory: real swarms, stores and partial blobs. */
import assert from 'node:assert/strict'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { systemRandom } from '../../src/base/random.ts'
import { inlineFileWorkers } from '../../src/files/workers/file-workers.ts'
import { SourceError, type BlobSource } from '../../src/store/blob-source.ts'
import type { BlobStore } from '../../src/store/blob-store.ts'
import { openCasLink, type CasLink } from '../../src/store/cas-link.ts'
import { SourceHealth } from '../../src/store/fetch/source-health.ts'
import { openFetcher, type Fetcher } from '../../src/store/fetcher.ts'
import { openMemoryBlobStore } from '../../src/store/memory-blob-store.ts'
import { openPartialBlobs } from '../../src/store/partial/part-directory.ts'
import type { PartialBlobs } from '../../src/store/partial/partial-blobs.ts'
import type { SwarmPeer } from '../../src/store/swarm/swarm-fetch.ts'
import { Swarms } from '../../src/store/swarm/swarms.ts'
import { encodeChunkList, isChunked, type ChunkList } from '../../src/wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../src/wire/digest.ts'
import { chunkListOf } from './chunk-support.ts'
import { log, memoryChannels, temporaryDirectory, type MemoryChannel } from './support.ts'

export interface MeshNode {
  readonly name: string
  readonly store: BlobStore
  readonly partials: PartialBlobs
  readonly swarms: Swarms
  readonly fetcher: Fetcher
  readonly health: SourceHealth
  /** Bytes of frames that it sent, on all links. */
  readonly sentBytes: () => number
  /** Changes what it sends. */
  transform: (frame: Uint8Array) => Uint8Array | undefined
  /** This node as others see it. */
  readonly peer: (asker: MeshNode) => SwarmPeer
  readonly hints: (asker: MeshNode) => BlobSource[]
  /** Takes one end of a channel to the peer. */
  readonly open: (channel: MemoryChannel, peerId: string) => CasLink
  readonly kill: () => void
}

export interface MeshNodeOptions {
  /** Speaks as nodes did before there were swarms. */
  readonly isOld?: boolean
  readonly clock?: Clock
  readonly mirrors?: readonly BlobSource[]
}

export class SwarmMesh implements AsyncDisposable {
  readonly #stack = new AsyncDisposableStack()
  readonly #nodes = new Map<string, MeshNode>()
  /** Who asked for a blob, and who has it: what an owner would know. */
  readonly #tracked = new Map<Digest, Set<string>>()
  /** A list is a function of its blob: made once for all. */
  readonly #lists = new Map<Digest, ChunkList>()
  readonly #peers = new WeakMap<BlobSource, SwarmPeer>()

  track(digest: Digest, node: MeshNode): void {
    const names = this.#tracked.get(digest) ?? new Set<string>()
    this.#tracked.set(digest, names.add(node.name))
  }

  /** Has the source be one of a peer. */
  asPeer(source: BlobSource, peer: SwarmPeer): void {
    this.#peers.set(source, peer)
  }

  async add(name: string, options: MeshNodeOptions = {}): Promise<MeshNode> {
    const { clock = systemClock() } = options
    const peers = this.#peers
    const directory = this.#stack.use(temporaryDirectory())
    const store = openMemoryBlobStore()
    const partials = this.#stack.use(
      await openPartialBlobs(
        {
          store,
          chunks: { keep: async () => undefined, locate: (chunk) => this.#locate(store, chunk) },
          workers: inlineFileWorkers(),
          clock,
          log,
          adopt: async (path, ref) =>
            assert.deepEqual(await store.putFile(path, { move: true }), ref),
        },
        { directory: directory.path },
      ),
    )
    const random = systemRandom()
    const health = new SourceHealth({ random })
    const listOf = (digest: Digest): Promise<ChunkList | undefined> => this.#listIn(store, digest)
    const swarms = this.#stack.use(
      new Swarms({
        clock,
        random,
        log,
        health,
        store,
        partials,
        listOf,
        onServed: () => undefined,
        peerOf: (source) => peers.get(source),
        findPeers: async ({ digest }) => {
          const others = [...(this.#tracked.get(digest) ?? [])].filter((other) => other !== name)
          this.track(digest, node)
          return others.flatMap((other) => this.#nodes.get(other)?.peer(node) ?? [])
        },
      }),
    )
    const channels: MemoryChannel[] = []
    const dialled = new Map<string, CasLink>()
    let isAlive = true
    const dial = async (asker: MeshNode): Promise<CasLink> => {
      if (!isAlive) throw new SourceError('failed', `${name} is dead`)
      const [near, far] = memoryChannels()
      const link = dialled.get(asker.name) ?? asker.open(near, name)
      if (dialled.has(asker.name)) return link
      node.open(far, asker.name)
      dialled.set(asker.name, link)
      void link.closed.then(() => dialled.delete(asker.name))
      return link
    }
    const node: MeshNode = {
      name,
      store,
      partials,
      swarms,
      health,
      fetcher: openFetcher(
        { store, clock, log, random, health, swarms },
        { mirrors: options.mirrors ?? [] },
      ),
      sentBytes: () => channels.reduce((sum, { sent }) => sum + sent.bytes, 0),
      transform: (frame) => frame,
      open(channel, peerId) {
        channels.push(channel)
        channel.transform = (frame) => node.transform(frame)
        const parts = {
          swarms,
          encodedListOf: async (digest: Digest) => {
            const list = await listOf(digest)
            return list === undefined ? undefined : encodeChunkList(list)
          },
        }
        return openCasLink(
          { channel: Object.assign(channel, { remotePeer: peerId }), clock, log },
          { store, ...(options.isOld === true ? {} : parts) },
        )
      },
      peer(asker) {
        const source = lazySource(name, () => dial(asker))
        const peer = { peerId: name, hasAll: true, sources: [source], link: () => dial(asker) }
        peers.set(source, peer)
        return peer
      },
      hints: (asker) => [...node.peer(asker).sources],
      kill() {
        isAlive = false
        for (const channel of channels) channel.close()
      },
    }
    this.#nodes.set(name, node)
    return node
  }

  async #listIn(store: BlobStore, digest: Digest): Promise<ChunkList | undefined> {
    const sizeBytes = await store.sizeOf(digest)
    if (sizeBytes === undefined || !isChunked(sizeBytes)) return undefined
    const list =
      this.#lists.get(digest) ?? chunkListOf((await store.read(digest, Infinity)) ?? assert.fail())
    this.#lists.set(digest, list)
    return list
  }

  /** Where a chunk is in any of the blobs. */
  async #locate(
    store: BlobStore,
    chunk: Digest,
  ): Promise<{ blob: Digest; offset: number; length: number } | undefined> {
    for await (const { digest } of store.list()) {
      const list = await this.#listIn(store, digest)
      const found = list?.chunks.find((one) => one.digest === chunk)
      if (found !== undefined) return { blob: digest, offset: found.offset, length: found.length }
    }
    return undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const node of this.#nodes.values()) node.kill()
    await this.#stack.disposeAsync()
  }
}

function lazySource(name: string, open: () => Promise<CasLink>): BlobSource {
  return {
    name: `${name} (link)`,
    kind: 'peer',
    fetch: async (ref, options) => (await open()).source.fetch(ref, options),
    chunkList: async (digest, options) => (await open()).source.chunkList?.(digest, options),
  }
}

export async function bytesIn(node: MeshNode, ref: BlobRef): Promise<Uint8Array> {
  return (await node.store.read(ref.digest, ref.size)) ?? assert.fail(`${node.name} lacks it`)
}
