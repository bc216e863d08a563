/** The settings that have a name on the command line and in the environment, in the order of the help. */
import type { Settings } from './settings.ts'

/** One setting, and its names on the command line and in the environment. */
export interface SettingSpec {
  readonly section: keyof Settings
  readonly key: string
  readonly flag: string
  readonly env: string
  /** Placeholder of its value. */
  readonly value: string
  /** Given several times, or as one text with commas. */
  readonly isList?: true
  /** True or false; the flag alone means true. */
  readonly isSwitch?: true
}

export const SETTINGS: readonly SettingSpec[] = [
  { section: 'node', key: 'data', flag: 'data', env: 'MESH_DATA', value: 'DIR' },
  { section: 'node', key: 'name', flag: 'name', env: 'MESH_NAME', value: 'NAME' },
  { section: 'node', key: 'roles', flag: 'role', env: 'MESH_ROLE', value: 'ROLES', isList: true },
  {
    section: 'node',
    key: 'listen',
    flag: 'listen',
    env: 'MESH_LISTEN',
    value: 'MULTIADDR',
    isList: true,
  },
  {
    section: 'node',
    key: 'parents',
    flag: 'parent',
    env: 'MESH_PARENT',
    value: 'MULTIADDR',
    isList: true,
  },
  {
    section: 'node',
    key: 'allow',
    flag: 'allow',
    env: 'MESH_ALLOW',
    value: 'PEERID',
    isList: true,
  },
  { section: 'worker', key: 'cpus', flag: 'cpus', env: 'MESH_CPUS', value: 'N' },
  { section: 'worker', key: 'memory', flag: 'memory', env: 'MESH_MEMORY', value: 'SIZE' },
  { section: 'worker', key: 'isolation', flag: 'isolation', env: 'MESH_ISOLATION', value: 'KIND' },
  {
    section: 'worker',
    key: 'checks',
    flag: 'check',
    env: 'MESH_CHECK',
    value: 'PATH',
    isList: true,
  },
  {
    section: 'worker',
    key: 'facts',
    flag: 'facts',
    env: 'MESH_FACTS',
    value: 'PATH',
    isList: true,
  },
  {
    section: 'worker',
    key: 'features',
    flag: 'feature',
    env: 'MESH_FEATURES',
    value: 'NAME',
    isList: true,
  },
  {
    section: 'worker',
    key: 'systems',
    flag: 'system',
    env: 'MESH_SYSTEMS',
    value: 'SYSTEM',
    isList: true,
  },
  { section: 'worker', key: 'policy', flag: 'policy', env: 'MESH_POLICY', value: 'NAME' },
  {
    section: 'worker',
    key: 'machine-root',
    flag: 'machine-root',
    env: 'MESH_MACHINE_ROOT',
    value: 'DIR',
  },
  {
    section: 'store',
    key: 'mirrors',
    flag: 'mirror',
    env: 'MESH_MIRROR',
    value: 'URL',
    isList: true,
  },
  { section: 'store', key: 'quota', flag: 'quota', env: 'MESH_QUOTA', value: 'SIZE' },
  {
    section: 'store',
    key: 'free',
    flag: 'keep-free',
    env: 'MESH_KEEP_FREE',
    value: 'SIZE',
  },
  {
    section: 'store',
    key: 'keep-logs',
    flag: 'keep-logs',
    env: 'MESH_KEEP_LOGS',
    value: 'TIME',
  },
  {
    section: 'store',
    key: 'keep-logs-size',
    flag: 'keep-logs-size',
    env: 'MESH_KEEP_LOGS_SIZE',
    value: 'SIZE',
  },
  { section: 'audit', key: 'share', flag: 'audit', env: 'MESH_AUDIT', value: 'SHARE' },
  {
    section: 'shares',
    key: 'half-life',
    flag: 'share-half-life',
    env: 'MESH_SHARE_HALF_LIFE',
    value: 'TIME',
  },
  { section: 'http', key: 'listen', flag: 'http', env: 'MESH_HTTP', value: 'HOST:PORT|none' },
  {
    section: 'http',
    key: 'open',
    flag: 'http-open',
    env: 'MESH_HTTP_OPEN',
    value: '',
    isSwitch: true,
  },
  { section: 'log', key: 'level', flag: 'log-level', env: 'MESH_LOG_LEVEL', value: 'LEVEL' },
  { section: 'log', key: 'format', flag: 'log-format', env: 'MESH_LOG_FORMAT', value: 'FORMAT' },
  {
    section: 'shutdown',
    key: 'deadline',
    flag: 'drain-deadline',
    env: 'MESH_DRAIN_DEADLINE',
    value: 'TIME',
  },
]
