/** What the set-up proposes for one setting, in the words of the configuration file. */
import { formatSize } from '../../../base/units.ts'

export type SettingValue = string | number | boolean | readonly string[]

export interface Proposal {
  /** `worker.cpus`: a setting of the node; `needs.memory`: for derivations, and in no file of the node. */
  readonly setting: string
  readonly value: SettingValue
  /** One sentence without a full stop. */
  readonly reason: string
}

export const GIB = 1024 ** 3
export const MIB = 1024 ** 2

/** Not more than `bytes`, in digits that a person would choose, as the configuration reads it. */
export function roundSize(bytes: number): string {
  if (bytes >= 16 * GIB) return formatSize(Math.floor(bytes / GIB) * GIB)
  if (bytes >= 2 * GIB) return `${Math.floor((bytes / GIB) * 10) / 10} GiB`
  const step = bytes >= 256 * MIB ? 64 * MIB : MIB
  const mib = Math.max(1, (Math.floor(bytes / step) * step) / MIB)
  return mib % 512 === 0 ? `${mib / 1024} GiB` : `${mib} MiB`
}

/** Whether it goes into derivations and not into the node's configuration. */
export const isForJobs = ({ setting }: Proposal): boolean => setting.startsWith('needs.')
