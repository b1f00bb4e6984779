//! Which instructions code of a level may hold: the proof that a level's code runs on every machine of that level.
//!
//! An instruction is judged by its encoding (what the first bytes say: legacy, VEX or EVEX) *and* by its name, which
//! must be on the list of the level's instruction sets; what is on no list is above the level. The lists are those of
//! the architecture manual: SSE and SSE2 for `portable`, all sets of x86-64-v3 for `avx2`, the same and AVX-VNNI for
//! `avxvnni`. Saturating products (`pmaddubsw`, `vpdpbusds`) are on no list although the sets have them: sums of codes
//! are exact.

use crate::level::Level;
use crate::llvm::Instruction;

/// Why an instruction is above `level`; `None` if every machine of that level runs it. Code of the highest level is not
/// limited.
pub fn excess(i: &Instruction, level: Level) -> Option<String> {
    if level == Level::Avx512Vnni {
        return None;
    }
    let encoding = Encoding::of(&i.bytes);
    let allowed = match (encoding, level) {
        (Encoding::Evex, _) | (Encoding::Other, _) => false,
        (Encoding::Vex, Level::Portable) => false,
        // Legacy opcodes behind these escapes came with SSSE3 and later.
        (Encoding::Legacy { escape: 0x38 | 0x3a }, Level::Portable) => false,
        _ => true,
    };
    if !allowed {
        return Some(format!("`{}` is encoded as {encoding:?}", i.text));
    }
    let name = name(&i.text);
    let wide = |register: &str| i.text.contains(register);
    let known = match encoding {
        Encoding::Vex => is_vex(name, level),
        _ => is_baseline(name) || level != Level::Portable && is_in(name, V3_SCALAR),
    };
    if !known {
        return Some(format!("`{}` is on no list of {level}", i.text));
    }
    if wide("zmm") || level == Level::Portable && wide("ymm") {
        return Some(format!("`{}` uses wider registers", i.text));
    }
    None
}

/// How an instruction is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    /// With an opcode of one byte, or behind 0F (`escape` 0), 0F 38 or 0F 3A.
    Legacy {
        escape: u8,
    },
    Vex,
    Evex,
    /// Nothing but prefixes, or an extension of a single vendor.
    Other,
}

impl Encoding {
    fn of(bytes: &[u8]) -> Encoding {
        let prefix = |b: &u8| {
            matches!(
                b,
                0x26 | 0x2e | 0x36 | 0x3e | 0x64 | 0x65 | 0x66 | 0x67 | 0xf0 | 0xf2 | 0xf3
            )
        };
        let start = bytes.iter().position(|b| !prefix(b)).unwrap_or(bytes.len());
        match bytes[start..] {
            [] => Encoding::Other,
            [0xc4 | 0xc5, ..] => Encoding::Vex,
            [0x62, ..] => Encoding::Evex,
            // `pop` to memory if the field of the next byte is 0.
            [0x8f, next, ..] if next & 0x38 != 0 => Encoding::Other,
            [0x0f, escape @ (0x38 | 0x3a), ..] => Encoding::Legacy { escape },
            [0x40..=0x4f, 0x0f, escape @ (0x38 | 0x3a), ..] => Encoding::Legacy { escape },
            _ => Encoding::Legacy { escape: 0 },
        }
    }
}

/// The instruction's name, without what stands in front of it.
fn name(text: &str) -> &str {
    let in_front = ["{vex}", "lock", "rep", "repne", "data16", "notrack"];
    text.split(' ')
        .find(|w| !in_front.contains(w))
        .unwrap_or_default()
}

fn is_in(name: &str, lists: &str) -> bool {
    lists.split_whitespace().any(|n| n == name)
}

/// Integer instructions of every x86-64, SSE and SSE2.
fn is_baseline(name: &str) -> bool {
    let condition = ["j", "set", "cmov"]
        .iter()
        .any(|stem| name.strip_prefix(stem).is_some_and(|c| is_in(c, CONDITIONS)));
    condition || is_in(name, INTEGER) || is_in(name, SSE2) || is_comparison(name, &PREDICATES[..8])
}

fn is_vex(name: &str, level: Level) -> bool {
    if is_in(name, VEX_SCALAR) || is_in(name, AVX2) || is_fma(name) {
        return true;
    }
    if level == Level::AvxVnni && is_in(name, VNNI) {
        return true;
    }
    // Most others are older instructions with a `v` in front.
    name.strip_prefix('v').is_some_and(|old| {
        old != "pmaddubsw" && (is_in(old, SSE2) || is_in(old, SSE4) || is_comparison(old, &PREDICATES))
    })
}

/// `cmp<predicate><type>`.
fn is_comparison(name: &str, predicates: &[&str]) -> bool {
    let Some(rest) = name.strip_prefix("cmp") else {
        return false;
    };
    ["ps", "pd", "ss", "sd"]
        .iter()
        .filter_map(|ty| rest.strip_suffix(ty))
        .any(|p| p.is_empty() || predicates.contains(&p))
}

/// `vf[n]m<add|sub><order><type>`.
fn is_fma(name: &str) -> bool {
    let rest = name.strip_prefix("vfnm").or_else(|| name.strip_prefix("vfm"));
    rest.is_some_and(|rest| {
        let kind = ["addsub", "subadd", "add", "sub"]
            .iter()
            .find_map(|k| rest.strip_prefix(k));
        let form = |r: &str| {
            let (order, ty) = r.split_at_checked(3).unwrap_or_default();
            is_in(order, "132 213 231") && is_in(ty, "ps pd ss sd")
        };
        kind.is_some_and(form)
    })
}

const CONDITIONS: &str = "o no b ae e ne be a s ns p np l ge le g";

/// Predicates of vector comparisons; the first eight are those of SSE.
const PREDICATES: [&str; 32] = [
    "eq", "lt", "le", "unord", "neq", "nlt", "nle", "ord", "eq_uq", "nge", "ngt", "false", "neq_oq", "ge",
    "gt", "true", "eq_os", "lt_oq", "le_oq", "unord_s", "neq_us", "nlt_uq", "nle_uq", "ord_s", "eq_us",
    "nge_uq", "ngt_uq", "false_os", "neq_os", "ge_oq", "gt_oq", "true_us",
];

const INTEGER: &str = "
    adc add and bsf bsr bswap bt btc btr bts call cbw cdq cdqe cmp cmpxchg cqo cwd cwde dec div idiv imul inc int3 jmp lea
    leave mov movabs movsx movsxd movzx mul neg nop not or pop push rcl rcr ret rol ror sal sar sbb shl shld shr shrd
    sub test ud2 xadd xchg xor";

const SSE2: &str = "
    addpd addps addsd addss andnpd andnps andpd andps comisd comiss cvtdq2pd cvtdq2ps cvtpd2dq cvtpd2ps cvtps2dq
    cvtps2pd cvtsd2si cvtsd2ss cvtsi2sd cvtsi2ss cvtss2sd cvtss2si cvttpd2dq cvttps2dq cvttsd2si cvttss2si divpd divps
    divsd divss ldmxcsr lfence maxpd maxps maxsd maxss mfence minpd minps minsd minss movapd movaps movd movdqa movdqu
    movhlps movhpd movhps movlhps movlpd movlps movmskpd movmskps movntdq movnti movntpd movntps movq movsd movss
    movupd movups mulpd mulps mulsd mulss orpd orps packssdw packsswb packuswb paddb paddd paddq paddsb paddsw paddusb
    paddusw paddw pand pandn pause pavgb pavgw pcmpeqb pcmpeqd pcmpeqw pcmpgtb pcmpgtd pcmpgtw pextrw pinsrw pmaddwd
    pmaxsw pmaxub pminsw pminub pmovmskb pmulhuw pmulhw pmullw pmuludq por prefetchnta prefetcht0 prefetcht1
    prefetcht2 psadbw pshufd pshufhw pshuflw pslld pslldq psllq psllw psrad psraw psrld psrldq psrlq psrlw psubb psubd
    psubq psubsb psubsw psubusb psubusw psubw punpckhbw punpckhdq punpckhqdq punpckhwd punpcklbw punpckldq punpcklqdq
    punpcklwd pxor rcpps rcpss rsqrtps rsqrtss sfence shufpd shufps sqrtpd sqrtps sqrtsd sqrtss stmxcsr subpd subps
    subsd subss ucomisd ucomiss unpckhpd unpckhps unpcklpd unpcklps xorpd xorps";

/// SSE3, SSSE3, SSE4.1 and SSE4.2.
const SSE4: &str = "
    addsubpd addsubps blendpd blendps blendvpd blendvps dppd dpps extractps haddpd haddps hsubpd hsubps insertps lddqu
    movddup movntdqa movshdup movsldup mpsadbw packusdw pabsb pabsd pabsw palignr pblendvb pblendw pcmpeqq pcmpgtq
    pextrb pextrd pextrq phaddd phaddsw phaddw phminposuw phsubd phsubsw phsubw pinsrb pinsrd pinsrq pmaxsb pmaxsd
    pmaxud pmaxuw pminsb pminsd pminud pminuw pmovsxbd pmovsxbq pmovsxbw pmovsxdq pmovsxwd pmovsxwq pmovzxbd pmovzxbq
    pmovzxbw pmovzxdq pmovzxwd pmovzxwq pmuldq pmulhrsw pmulld pshufb psignb psignd psignw ptest roundpd roundps
    roundsd roundss";

/// Scalar instructions of x86-64-v3 in legacy encoding.
const V3_SCALAR: &str = "crc32 lzcnt movbe popcnt tzcnt";

/// Scalar instructions of x86-64-v3 in VEX encoding.
const VEX_SCALAR: &str = "andn bextr blsi blsmsk blsr bzhi mulx pdep pext rorx sarx shlx shrx";

/// What AVX, AVX2 and F16C have beyond the older sets.
const AVX2: &str = "
    vbroadcastf128 vbroadcasti128 vbroadcastsd vbroadcastss vcvtph2ps vcvtps2ph vextractf128 vextracti128 vgatherdpd
    vgatherdps vgatherqpd vgatherqps vinsertf128 vinserti128 vmaskmovpd vmaskmovps vpblendd vpbroadcastb vpbroadcastd
    vpbroadcastq vpbroadcastw vperm2f128 vperm2i128 vpermd vpermilpd vpermilps vpermpd vpermps vpermq vpgatherdd
    vpgatherdq vpgatherqd vpgatherqq vpmaskmovd vpmaskmovq vpsllvd vpsllvq vpsravd vpsrlvd vpsrlvq vtestpd vtestps
    vzeroall vzeroupper";

/// The forms that wrap; the saturating ones are on no list either.
const VNNI: &str = "vpdpbusd vpdpwssd";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llvm::reachable;

    /// The first instruction of these bytes, which `ret` ends.
    fn decode(bytes: &[u8]) -> Instruction {
        let code = [bytes, &[0xc3]].concat();
        reachable(&code, 0).expect("valid code").swap_remove(0)
    }

    /// What each planted instruction needs, by level.
    #[test]
    fn instructions_above_a_level_are_found() {
        let cases: [(&[u8], &str, Option<Level>); 14] = [
            (&[0x0f, 0x58, 0xc1], "addps", Some(Level::Portable)),
            (&[0x66, 0x0f, 0x38, 0x40, 0xc1], "pmulld", None),
            (&[0x66, 0x0f, 0x3a, 0x15, 0x07, 0x01], "pextrw", Some(Level::Avx2)),
            (&[0xf3, 0x0f, 0x12, 0xc1], "movsldup", None),
            (&[0xf3, 0x48, 0x0f, 0xb8, 0xc1], "popcnt", Some(Level::Avx2)),
            (&[0xc5, 0xf0, 0x58, 0xc2], "vaddps", Some(Level::Avx2)),
            (&[0xc5, 0xf4, 0x58, 0xc2], "vaddps", Some(Level::Avx2)),
            (&[0xc4, 0xe2, 0x75, 0xb8, 0xc2], "vfmadd231ps", Some(Level::Avx2)),
            (&[0xc4, 0xe2, 0x75, 0x50, 0xc2], "vpdpbusd", Some(Level::AvxVnni)),
            (
                &[0xc4, 0xe2, 0x75, 0x04, 0xc2],
                "vpmaddubsw",
                Some(Level::Avx512Vnni),
            ),
            (&[0xc5, 0xf8, 0x90, 0xc9], "kmovw", Some(Level::Avx512Vnni)),
            (
                &[0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2],
                "vaddps",
                Some(Level::Avx512Vnni),
            ),
            (
                &[0x62, 0xf1, 0x74, 0x28, 0x58, 0xc2],
                "vaddps",
                Some(Level::Avx512Vnni),
            ),
            (
                &[0x62, 0xf2, 0x75, 0x48, 0x50, 0xc2],
                "vpdpbusd",
                Some(Level::Avx512Vnni),
            ),
        ];
        for (bytes, word, lowest) in cases {
            let i = decode(bytes);
            assert_eq!(name(&i.text), word, "{bytes:02x?}");
            for level in Level::ALL {
                // Without a level of its own a legacy instruction is one that generated code never needs.
                let want = lowest.map_or(level == Level::Avx512Vnni, |l| level >= l);
                assert_eq!(excess(&i, level).is_none(), want, "`{}` at {level}", i.text);
            }
        }
    }
}
