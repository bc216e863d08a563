/** The metrics of a node for Prometheus. Base units, no label that grows with use. */
import { collectDefaultMetrics, Gauge, Registry } from 'prom-client'

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
  return registry
}
