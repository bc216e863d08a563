/** The metrics of a node for Prometheus. Base units, no label that grows with use. */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'
import type { PullStats } from '../../store/mirror/pull-through.ts'

export interface MetricsSource {
  readonly version: string
  /** Of the owner; undefined at a node that owns nothing. */
  totals():
    | {
        readonly nodes: Readonly<Record<string, number>>
        readonly jobs: Readonly<Record<string, number>>
      }
    | undefined
  store(): { readonly count: number; readonly bytes: number }
  transferred(): { readonly sent: number; readonly peer: number; readonly mirror: number }
  /** Messages sent to find blobs and to make them be found, and the blobs that were looked up. */
  lookups(): {
    readonly questions: number
    readonly haves: number
    readonly announcements: number
    readonly digests: number
  }
  /** Of the owner: what went between other nodes by way of a store node. */
  relayedBytes(): number
  /** Of a node with the role `mirror`. */
  mirror(): PullStats | undefined
}

/** Values are read when they are scraped. */
export function openMetrics(source: MetricsSource): Registry {
  const registry = new Registry()
  collectDefaultMetrics({ register: registry })
  const gauge = (
    name: string,
    help: string,
    labelNames: readonly string[],
    collect: (gauge: Gauge) => void,
  ): void => {
    registry.registerMetric(
      new Gauge({
        name,
        help,
        labelNames: [...labelNames],
        registers: [],
        collect() {
          collect(this)
        },
      }),
    )
  }
  gauge('mesh_build_info', 'Always 1; the version is its label.', ['version'], (g) =>
    g.set({ version: source.version }, 1),
  )
  gauge('mesh_nodes', 'Nodes that this node schedules for, by state.', ['state'], (g) => {
    for (const [state, count] of Object.entries(source.totals()?.nodes ?? {}))
      g.set({ state }, count)
  })
  gauge('mesh_jobs', 'Jobs of this owner that are not done, by state.', ['state'], (g) => {
    for (const [state, count] of Object.entries(source.totals()?.jobs ?? {}))
      g.set({ state }, count)
  })
  gauge('mesh_store_blobs', 'Blobs in the store.', [], (g) => g.set(source.store().count))
  gauge('mesh_store_bytes', 'Bytes of the blobs in the store.', [], (g) =>
    g.set(source.store().bytes),
  )
  gauge(
    'mesh_transfer_bytes',
    'Blob bytes moved since the start, by direction and source.',
    ['direction', 'via'],
    (g) => {
      const { sent, peer, mirror } = source.transferred()
      g.set({ direction: 'sent', via: 'peer' }, sent)
      g.set({ direction: 'received', via: 'peer' }, peer)
      g.set({ direction: 'received', via: 'mirror' }, mirror)
    },
  )
  gauge('mesh_lookup_messages', 'Messages that look for blobs, by kind.', ['kind'], (g) => {
    const { questions, haves, announcements } = source.lookups()
    g.set({ kind: 'locate' }, questions)
    g.set({ kind: 'have' }, haves)
    g.set({ kind: 'announce' }, announcements)
  })
  gauge('mesh_lookup_blobs', 'Blobs that were looked up elsewhere.', [], (g) =>
    g.set(source.lookups().digests),
  )
  gauge(
    'mesh_relayed_bytes_total',
    'Blob bytes that went between nodes by way of a store node, at the word of this owner.',
    [],
    (g) => g.set(source.relayedBytes()),
  )
  gauge('mesh_mirror_reads', 'Blobs asked of this mirror, by where they were.', ['result'], (g) => {
    const { hits = 0, misses = 0, absent = 0 } = source.mirror() ?? {}
    g.set({ result: 'hit' }, hits)
    g.set({ result: 'miss' }, misses)
    g.set({ result: 'absent' }, absent)
  })
  gauge('mesh_mirror_bytes', 'Blob bytes of this mirror, by direction.', ['direction'], (g) => {
    const { bytesIn = 0, bytesOut = 0 } = source.mirror() ?? {}
    g.set({ direction: 'in' }, bytesIn)
    g.set({ direction: 'out' }, bytesOut)
  })
  gauge('mesh_mirror_pulls', 'Blobs that this mirror is pulling through.', [], (g) =>
    g.set(source.mirror()?.inFlight ?? 0),
  )
  gauge('mesh_mirror_upstream_errors', 'Failures of the sources of this mirror.', [], (g) =>
    g.set(source.mirror()?.upstreamErrors ?? 0),
  )
  return registry
}
