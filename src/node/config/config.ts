/** What a daemon is told at its start, as the rest of it reads it: parsed, with all defaults. */
import { parseDuration, parseSize } from '../../base/units.ts'
import type { Role } from '../../wire/api.ts'
import type { PolicySettings } from '../policy/policy.ts'
import type { ConfigIo } from './config-io.ts'
import { parseHostPort, parsePercent, type HostPort } from './config-values.ts'
import type { DeclaredImage } from './image-settings.ts'
import type { FilledSettings } from './machine-defaults.ts'
import { policyConfigOf } from './policy-settings.ts'
import type { Settings } from './settings.ts'
import { shareConfigOf, type ShareConfig } from './share-settings.ts'

/** The resolved settings of one daemon. */
export interface Config {
  /** Absolute path of the directory of all that the node keeps. */
  readonly data: string
  readonly name: string
  /** Multiaddrs; empty for a node that only dials out. */
  readonly listen: readonly string[]
  /** Absent for a node that serves no HTTP over TCP. */
  readonly http?: HostPort
  /** Whoever reaches the HTTP port reads blobs, without TLS and without a token. */
  readonly httpOpen: boolean
  /** Multiaddrs in the order of preference; empty for the root of a mesh. */
  readonly parents: readonly string[]
  readonly roles: readonly Role[]
  /** For builds; absent for all that the process may use. */
  readonly cpus?: number
  readonly memoryBytes?: number
  /** How much of that is for builds, and when. */
  readonly policy: PolicySettings
  /** Where the machine is looked at, absolute; `/` but in a container. */
  readonly machineRoot: string
  /** Base URLs, each with a slash at its end. */
  readonly mirrors: readonly string[]
  /** The most that the store may use; undefined: what the disk has. */
  readonly quotaBytes: number | undefined
  /** What is left free on the disk of the store; undefined: a share of the disk. */
  readonly floorBytes: number | undefined
  /** How long logs of builds are kept, and how much of them; undefined: a share of the disk. */
  readonly keepLogsMs: number
  readonly keepLogsBytes: number | undefined
  /** Peer ids; `loopback` when none were named: then no address of the node is reached from elsewhere. */
  readonly allow: readonly string[] | 'any' | 'loopback'
  /** `host`: no walls around builds even where there could be some; they are then unsealed. */
  readonly isolation: 'auto' | 'host'
  /** Absolute paths of programs that are asked before an attempt begins. */
  readonly checks: readonly string[]
  /** Programs that tell facts of the machine. */
  readonly facts: readonly string[]
  /** Names of its own that derivations may require; with `-`: of the probes, not to be offered. */
  readonly features: readonly string[]
  /** The only systems that builds may be for; undefined: all whose programs run here. */
  readonly systems: readonly string[] | undefined
  /** Directories of this machine that are images. */
  readonly images: readonly DeclaredImage[]
  /** Of the finished jobs of this owner those that are built again on idle nodes, from 0 to 1. */
  readonly auditShare: number
  /** Of an owner: how its nodes are divided among users. */
  readonly shares: ShareConfig
  readonly log: { readonly level: Settings['log']['level']; readonly format: 'json' | 'pretty' }
  readonly drainDeadlineMs: number
}

export function configOf(
  { node, worker, store, audit, shares, http, log, shutdown }: FilledSettings,
  io: ConfigIo,
): Config {
  const { cpus } = worker
  const memoryBytes = parseSize(worker.memory)
  return {
    data: node.data,
    name: node.name,
    listen: node.listen.filter((address) => address !== 'none'),
    ...(http.listen === 'none' ? {} : { http: checked(parseHostPort(http.listen)) }),
    httpOpen: http.open,
    parents: node.parents,
    roles: node.roles,
    ...(cpus === 'auto' ? {} : { cpus }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    quotaBytes: parseSize(store.quota),
    floorBytes: parseSize(store.free),
    keepLogsMs: checked(parseDuration(store['keep-logs'])),
    keepLogsBytes: parseSize(store['keep-logs-size']),
    mirrors: store.mirrors.map((url) => (url.endsWith('/') ? url : `${url}/`)),
    allow: node.allow?.includes('any') ? 'any' : (node.allow ?? 'loopback'),
    policy: policyConfigOf(worker),
    machineRoot: worker['machine-root'],
    isolation: worker.isolation,
    checks: worker.checks,
    facts: worker.facts,
    features: worker.features,
    systems: worker.systems,
    images: worker.image,
    auditShare: checked(parsePercent(audit.share)),
    shares: shareConfigOf(shares),
    log: {
      level: log.level,
      format: log.format === 'auto' ? (io.isTty ? 'pretty' : 'json') : log.format,
    },
    drainDeadlineMs: checked(parseDuration(shutdown.deadline)),
  }
}

/** What the schema has checked already. */
function checked<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the schema let a wrong value pass')
  return value
}
