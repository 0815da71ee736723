"""Reading the hot loop from machine code."""

from tilec.backends.ptx.hot_loop import Loop, hot_loop

SASS = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0020*/               @P0 BRA `(.L_x_0) ;
.L_x_1:
        /*0030*/                   LDSM.16.M88.4 R4, [R2] ;
        /*0040*/                   HMMA.16816.F32 R8, R4, R6, R8 ;
        /*0050*/              @!P1 LDGSTS.E.BYPASS.128 [R3], [R10.64] ;
        /*0060*/               @P0 BRA `(.L_x_1) ;
        /*0070*/                   EXIT ;
.L_x_2:
        /*0080*/                   BRA `(.L_x_2);
"""


def test_the_loop_with_products_is_hot() -> None:
    found = hot_loop(SASS)
    assert found == Loop(4, 1, {"LDSM": 1, "HMMA": 1, "LDGSTS": 1, "BRA": 1})
    assert str(found) == "4 instructions, 1 of them matrix products"


def test_without_products_the_longest_is() -> None:
    assert hot_loop(SASS.replace("HMMA", "FFMA")) == Loop(4, 0, {"LDSM": 1, "FFMA": 1, "LDGSTS": 1, "BRA": 1})


def test_without_a_loop() -> None:
    """The last instruction of every kernel branches to itself."""
    assert hot_loop("/*0000*/ EXIT ;") is None
    assert hot_loop(SASS[SASS.index(".L_x_2") :]) is None
