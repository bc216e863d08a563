/**
 * How this node finds the blobs of others and makes its own be found: a finder and an announcer, both with
 * the same index, which is the parent, or the node itself where it has none.
 */
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import type { Random } from '../base/random.ts'
import { Announcer } from '../gossip/announcer.ts'
import { singleIndex, type BlobDirectory } from '../gossip/directory.ts'
import { Finder } from '../gossip/finder.ts'
import { SourceError } from '../store/blob-source.ts'
import type { Announced, Announcement } from '../wire/announcement.ts'
import { EMPTY_DIGEST } from '../wire/digest.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { Located, Question } from '../wire/work-messages.ts'
import type { Blobs, LocateQuery } from './blobs/blobs.ts'

interface FindingDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly blobs: Blobs
  /** Both throw when the index cannot be asked. */
  readonly index: {
    readonly ask: (question: Question, signal: AbortSignal) => Promise<Located>
    readonly announce: (announcement: Announcement, signal: AbortSignal) => Promise<Announced>
  }
}

/** Asked for where only the store nodes are wanted. */
const NOTHING = { digest: EMPTY_DIGEST, size: 0 }
const NO_INDEX: BlobDirectory = { indexNodes: [], indexNodesOf: () => [] }

export class Finding implements Disposable {
  /** To be told of every blob that this node gets or makes, and of those that it loses. */
  readonly announcer: Announcer
  readonly finder: Finder
  readonly #ask: FindingDeps['index']['ask']
  #directory = NO_INDEX

  constructor({ clock, random, log, blobs, index }: FindingDeps) {
    this.#ask = index.ask
    this.announcer = new Announcer({
      clock,
      random,
      log: log.child({ component: 'announcer' }),
      send: (_indexNode, announcement, signal) => index.announce(announcement, signal),
    })
    this.finder = new Finder({
      clock,
      log: log.child({ component: 'finder' }),
      directory: () => this.#directory,
      ask: (_indexNode, question, signal) => index.ask(question, signal),
      async has(store, digests, signal) {
        for (const source of blobs.sourcesOf([store]))
          if (source.has !== undefined) return source.has(digests, { signal })
        throw new SourceError('failed', `${store.name} cannot be asked what it has`)
      },
    })
  }

  /** The index can be asked, for the first time or again. */
  reached(indexNode: string): void {
    if (this.#directory.indexNodes[0] !== indexNode) {
      this.#directory = singleIndex(indexNode)
      this.announcer.use(this.#directory)
    }
    this.announcer.reached(indexNode)
    this.finder.forgetNobody()
  }

  /** Messages sent since the start, and digests that were looked up. */
  get counts(): Finder['counts'] & { readonly announcements: number } {
    return { ...this.finder.counts, announcements: this.announcer.counts.messages }
  }

  /** For the fetches of this node. */
  locate(query: LocateQuery, signal: AbortSignal): Promise<Located> {
    const { refs, entries, failed, within } = query
    // What has to be brought to a store node first is never answered from memory.
    return entries.length > 0
      ? this.#ask({ refs: [...refs], entries: [...entries], failed: [...failed] }, signal)
      : this.finder.locate(refs, { within, signal })
  }

  /** Store nodes but this one, in the order of the index. */
  async stores(signal: AbortSignal): Promise<readonly PeerRecord[]> {
    const located = await this.#ask(
      { refs: [NOTHING], entries: [], failed: [], asksStores: true },
      signal,
    )
    return (located.stores ?? []).flatMap((at) => located.peers[at] ?? [])
  }

  [Symbol.dispose](): void {
    this.announcer[Symbol.dispose]()
    this.finder[Symbol.dispose]()
  }
}
